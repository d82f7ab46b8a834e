;; Grows its memory page by page until it is refused, writes to every page, and answers with the number of pages.
(module
  (memory (export "memory") 2)
  (data (i32.const 16) "\a9\00\67hostile\01\651.0.0\02\01\03\80\04\80\05\80\06\80\07\80\08\80")
  (func (export "sh1_alloc") (param i32) (result i32) (i32.const 65536))
  (func (export "sh1_describe") (result i64) (i64.const 0x10_0000001f))
  (func (export "sh1_panic") (result i64) (i64.const 0))
  (func (export "sh1_plan") (export "sh1_execute") (export "sh1_query") (export "sh1_render") (export "sh1_check") (export "sh1_migrate")
    (param i32 i32) (result i64) (i64.const 0))
  (func (export "sh1_apply") (param $ptr i32) (param $len i32) (result i64)
    (local $page i32)
    (block $full
      (loop $more
        (br_if $full (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
        (br $more)))
    (loop $touch
      (i32.store (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1))
      (local.set $page (i32.add (local.get $page) (i32.const 1)))
      (br_if $touch (i32.lt_u (local.get $page) (memory.size))))
    (i64.store (i32.const 0) (i64.extend_i32_u (memory.size)))
    (i64.const 8))
)
