//! Fuzz targets: the messages of the protocol between nodes, from bytes to values of `consensus/` and back.
//!
//! In: any bytes. Out: nothing, if a message that is accepted is sent on as it was read, and needs memory in proportion
//! to its bytes. It does not know how inputs are made.

use bytes::Bytes;
use prost::Message;
use statehouse_fuzz::{Target, fuzz, within};

use super::released::{calls, group, replies, requests};
use super::{convert, wire};

/// Memory for reading: an entry of two bytes becomes some hundred, in a list that grows.
fn bound(input: &[u8]) -> usize {
    4096 + 512 * input.len()
}

/// Decodes as the server does, from a body of shared bytes.
fn decoded<M: Message + Default>(input: &[u8]) -> Option<M> {
    let body = Bytes::copy_from_slice(input);
    within(bound(input), || M::decode(body)).ok()
}

#[test]
fn a_request_of_raft_that_is_accepted_is_sent_on_as_it_was() {
    let seeds = requests().into_iter().map(|request| convert::request_out(&group(), request).encode_to_vec());
    fuzz!(Target::new("raft_request").seeds(seeds), |input| {
        let Some(message) = decoded::<wire::RaftRequest>(input) else { return };
        let Ok((group, request)) = within(bound(input), || convert::request_in(message)) else { return };
        let again = convert::request_out(&group, request.clone()).encode_to_vec();
        let again = wire::RaftRequest::decode(again.as_slice()).expect("what was written is read");
        assert_eq!(convert::request_in(again), Ok((group, request)));
    });
}

#[test]
fn a_reply_of_raft_that_is_accepted_is_sent_on_as_it_was() {
    let seeds = replies().into_iter().map(|reply| convert::reply_out(reply).encode_to_vec());
    fuzz!(Target::new("raft_reply").seeds(seeds), |input| {
        let Some(message) = decoded::<wire::RaftReply>(input) else { return };
        let Ok(reply) = within(bound(input), || convert::reply_in(message)) else { return };
        let again = convert::reply_out(reply.clone()).encode_to_vec();
        let again = wire::RaftReply::decode(again.as_slice()).expect("what was written is read");
        assert_eq!(convert::reply_in(again), Ok(reply));
    });
}

#[test]
fn an_append_of_a_stream_that_is_accepted_is_sent_on_as_it_was() {
    use wire::appends_request::Message as Appends;

    let of = |message| wire::AppendsRequest { message: Some(message) }.encode_to_vec();
    let appends = requests().into_iter().take(2).map(|append| Appends::Append(convert::append_out(append)));
    let seeds: Vec<Vec<u8>> = appends.chain([Appends::Group(convert::group_out(&group()))]).map(of).collect();
    fuzz!(Target::new("appends_request").seeds(seeds), |input| {
        match decoded::<wire::AppendsRequest>(input).and_then(|request| request.message) {
            Some(Appends::Append(append)) => {
                let Ok(request) = within(bound(input), || convert::append_in(append)) else { return };
                assert_eq!(convert::append_in(convert::append_out(request.clone())), Ok(request));
            }
            Some(Appends::Group(group)) => {
                let group = convert::group_in(Some(group)).expect("a group is named");
                assert_eq!(convert::group_in(Some(convert::group_out(&group))), Ok(group));
            }
            None => {}
        }
    });
}

#[test]
fn a_call_that_is_accepted_is_sent_on_as_it_was() {
    let seeds = calls().into_iter().map(|call| convert::call_out(call).encode_to_vec());
    fuzz!(Target::new("call_request").seeds(seeds), |input| {
        let Some(message) = decoded::<wire::CallRequest>(input) else { return };
        let Ok(call) = within(bound(input), || convert::call_in(message)) else { return };
        assert_eq!(convert::call_in(convert::call_out(call.clone())), Ok(call));
    });
}
