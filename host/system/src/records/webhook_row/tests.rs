//! The rules of a webhook's rows: what is granted, what is refused, and what comes too late.

use statehouse_guest::Rejections;

use super::*;

const TIME: Micros = Micros(7);

fn at(partition: u32, index: u64, n: u32) -> RowPosition {
    RowPosition { partition, index, n, head8: [1, 2, 3, 4] }
}

fn lane(index: u64, n: u32) -> LaneRow {
    LaneRow { at: at(0, index, n), failing: None }
}

fn create() -> WebhookWish {
    WebhookWish::Create {
        url: "https://example.com/in".to_owned(),
        keys: Vec::new(),
        kinds: Vec::new(),
        batch: 1,
        secret: [1; 32],
        begin: vec![at(0, 0, 0), at(2, 5, 1)],
    }
}

fn dead(index: u64) -> WebhookWish {
    let failing = FailingDelivery { since: 3, attempts: 9 };
    WebhookWish::Dead { epoch: 1, first: at(0, index, 0), last: at(0, index, 1), failing, problem: "500".to_owned() }
}

fn progress(epoch: u64, lanes: Vec<LaneRow>) -> WebhookWish {
    WebhookWish::Progress { epoch, lanes, problem: String::new() }
}

#[derive(Default)]
struct Book {
    all: WebhooksRow,
    row: Option<WebhookRow>,
}

impl Book {
    fn created() -> Self {
        let mut book = Self::default();
        assert_eq!(book.step(&create()), Ok(true));
        book
    }

    /// Checks a wish, and applies it to the rows if it is granted.
    fn step(&mut self, wish: &WebhookWish) -> Result<bool, &'static str> {
        let checked = check(&self.all, self.row.as_ref(), "w", wish).map_err(|rejection| rejection.code());
        if checked == Ok(true) {
            self.row = grant(&mut self.all, self.row.take(), "w", wish, "op", TIME);
        }
        checked
    }

    fn row(&self) -> &WebhookRow {
        self.row.as_ref().expect("it is there")
    }
}

#[test]
fn a_webhook_is_created_paused_resumed_and_dropped() {
    let mut book = Book::default();
    assert_eq!(book.step(&WebhookWish::Pause), Err("unknown_webhook"));
    assert_eq!(book.step(&create()), Ok(true));
    assert_eq!(book.step(&create()), Err("webhook_exists"));
    assert_eq!((book.row().number, book.row().epoch, book.row().by.as_str()), (1, 1, "op"));
    assert_eq!(book.step(&WebhookWish::Resume), Ok(false), "it is not paused");
    assert_eq!(book.step(&WebhookWish::Pause), Ok(true));
    assert_eq!(book.row().paused.as_deref(), Some("by op"));
    assert_eq!(book.step(&progress(1, vec![lane(3, 0)])), Ok(true), "what was under way counts");
    assert_eq!(book.step(&WebhookWish::Resume), Ok(true));
    assert_eq!((book.row().paused.as_deref(), book.row().lanes[0]), (None, lane(3, 0)));
    assert_eq!((book.row().number, book.row().epoch), (1, 2), "whoever has not noticed the pause begins anew, too");
    assert_eq!(book.step(&progress(1, vec![lane(9, 0)])), Err("out_of_date"));
    assert_eq!(book.step(&WebhookWish::Drop), Ok(true));
    assert_eq!((book.row.is_none(), book.all.names.len()), (true, 0));
    assert_eq!(book.step(&create()), Ok(true));
    assert_eq!(book.row().number, 3, "another one, whose messages have other ids");
}

#[test]
fn there_are_not_too_many() {
    let names = (0..WEBHOOKS_MAX).map(|number| number.to_string()).collect();
    let mut book = Book { all: WebhooksRow { names, number: 40 }, row: None };
    assert_eq!(book.step(&create()), Err("too_many_webhooks"));
}

#[test]
fn progress_goes_forward_only_and_not_behind_a_replay() {
    let mut book = Book::created();
    let failing = Some(FailingDelivery { since: 5, attempts: 2 });
    assert_eq!(book.step(&progress(1, vec![LaneRow { at: at(0, 4, 1), failing }])), Ok(true));
    assert_eq!(book.row().lanes[0], LaneRow { at: at(0, 4, 1), failing });
    assert_eq!(book.step(&progress(1, vec![lane(4, 0), LaneRow { at: at(1, 9, 0), failing: None }])), Ok(true));
    assert_eq!(book.row().lanes[0].at, at(0, 4, 1), "what was noted late takes nothing back");
    assert_eq!(book.row().lanes.len(), 2, "and follows no other partition");
    assert_eq!(book.step(&WebhookWish::Replay { from: vec![at(1, 0, 0)] }), Err("not_followed"));
    assert_eq!(book.step(&WebhookWish::Replay { from: vec![at(0, 2, 0)] }), Ok(true));
    assert_eq!((book.row().lanes[0], book.row().lanes[1].at), (lane(2, 0), at(2, 5, 1)));
    assert_eq!(book.step(&progress(1, vec![lane(9, 0)])), Err("out_of_date"), "from before the replay");
    assert_eq!(book.step(&dead(9)), Err("out_of_date"));
    assert_eq!(book.step(&WebhookWish::Halt { epoch: 1, is_full: false }), Err("out_of_date"));
    let epoch = book.row().epoch;
    assert_eq!(book.step(&progress(epoch, vec![lane(3, 0)])), Ok(true));
    assert_eq!(book.row().lanes[0], lane(3, 0));
}

#[test]
fn what_was_given_up_is_passed_listed_and_sent_again() {
    let mut book = Book::created();
    assert_eq!(book.step(&dead(4)), Ok(true));
    assert_eq!((book.row().lanes[0], book.row().dead.len()), (lane(4, 1), 1));
    assert_eq!(book.step(&dead(4)), Ok(true));
    assert_eq!((book.row().dead.len(), book.row().dead_total), (1, 2), "after a replay it is the same letter");
    assert_eq!(book.step(&WebhookWish::Redelivered { first: at(0, 5, 0) }), Err("unknown_letter"));
    assert_eq!(book.step(&WebhookWish::Redelivered { first: at(0, 4, 0) }), Ok(true));
    assert!(book.row().dead.is_empty());
    for index in 10..10 + WEBHOOK_DEAD_MAX as u64 {
        assert_eq!(book.step(&dead(index)), Ok(true));
    }
    let last = book.row().lanes[0];
    assert_eq!(book.step(&dead(1000)), Err("dead_letters_full"));
    assert_eq!(book.step(&dead(10)), Ok(true), "that one is there already");
    assert_eq!(book.step(&WebhookWish::Halt { epoch: 1, is_full: true }), Ok(true));
    let row = book.row();
    assert_eq!((row.lanes[0], row.dead.len()), (last, WEBHOOK_DEAD_MAX), "nothing more is passed over");
    assert_eq!(row.paused.as_deref(), Some(FULL));
}

#[test]
fn two_secrets_sign_while_one_takes_the_others_place() {
    let mut book = Book::created();
    assert_eq!(book.step(&WebhookWish::Settle), Ok(false));
    assert_eq!(book.step(&WebhookWish::Rotate { secret: [2; 32] }), Ok(true));
    assert_eq!(book.row().secrets, [[2; 32], [1; 32]]);
    assert_eq!(book.step(&WebhookWish::Rotate { secret: [3; 32] }), Ok(true));
    assert_eq!(book.row().secrets, [[3; 32], [1; 32]], "the receiver may never have heard of the one between");
    assert_eq!(book.step(&WebhookWish::Settle), Ok(true));
    assert_eq!(book.row().secrets, [[3; 32]]);
    assert_eq!(book.step(&WebhookWish::Rotate { secret: [4; 32] }), Ok(true));
    assert_eq!(book.step(&WebhookWish::Rotate { secret: [3; 32] }), Ok(true));
    assert_eq!(book.row().secrets, [[3; 32]], "back to the one it had");
}

#[test]
fn a_receiver_that_is_gone_is_left_alone_until_somebody_resumes() {
    let mut book = Book::created();
    let failing = Some(FailingDelivery { since: 5, attempts: 2 });
    assert_eq!(book.step(&progress(1, vec![LaneRow { at: at(0, 4, 1), failing }])), Ok(true));
    assert_eq!(book.step(&WebhookWish::Halt { epoch: 1, is_full: false }), Ok(true));
    assert_eq!(book.row().paused.as_deref(), Some(GONE));
    assert_eq!(book.step(&WebhookWish::Resume), Ok(true));
    assert_eq!(book.row().lanes[0], lane(4, 1), "what failed has all its time again");
}
