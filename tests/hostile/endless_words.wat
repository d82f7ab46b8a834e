;; Traps, and does not come to an end when asked for a text.
(module
  (memory (export "memory") 2 1024)
  (data (i32.const 16) "\a9\00\67hostile\01\651.0.0\02\01\03\80\04\80\05\80\06\80\07\80\08\80")
  (func (export "sh1_alloc") (param i32) (result i32) (i32.const 65536))
  (func (export "sh1_describe") (result i64) (i64.const 0x10_0000001f))
  (func (export "sh1_panic") (result i64) (loop $again (br $again)) (unreachable))
  (func (export "sh1_plan") (export "sh1_apply") (export "sh1_query") (export "sh1_render") (export "sh1_check") (export "sh1_migrate")
    (param i32 i32) (result i64) (i64.const 0))
  (func $execute (export "sh1_execute") (param $ptr i32) (param $len i32) (result i64)
    (i64.load (i32.const -8)))
)
