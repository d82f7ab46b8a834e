//! Bodies: read whole, within a bound and a deadline. Bodies of megabytes are read only while there is room for them.
//!
//! In: the stream of a request. Out: its bytes, without a copy when they came in one piece. It knows nothing of what
//! they mean.

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::handle::Api;
use super::problem::{Code, Problem};
use super::request_context::media_type;
use super::share::{Requester, Share, ShareKind};
use crate::limits::{BODY_ROOM_BYTES, HTTP_DISCARD_BYTES_MAX};

pub const JSON: &str = "application/json";
pub const WASM: &str = "application/wasm";

/// # Errors
/// 408 past the deadline, 413 beyond the bound, 400 when the client breaks off.
pub async fn read_body(body: Body, bytes_max: usize, deadline: Instant) -> Result<Bytes, Problem> {
    read(body, bytes_max, deadline, |_| Ok(())).await
}

/// Reads a body of megabytes. Room is taken as bytes arrive: a client that announces much and sends nothing keeps
/// nobody out.
///
/// # Errors
/// As [`read_body`]; and 503 or 429 where there is no room.
pub async fn read_large_body(
    api: &Api,
    body: Body,
    bytes_max: usize,
    requester: &Requester,
    deadline: Instant,
) -> Result<(Bytes, Share), Problem> {
    let mut room = api.shares.take(ShareKind::Body, 1, requester)?;
    let mut room_bytes = BODY_ROOM_BYTES;
    let make_room = |bytes: usize| {
        let more = bytes.saturating_sub(room_bytes).div_ceil(BODY_ROOM_BYTES);
        room_bytes += more * BODY_ROOM_BYTES;
        room.take_more(more)
    };
    let bytes = read(body, bytes_max, deadline, make_room).await?;
    Ok((bytes, room))
}

async fn read(
    mut body: Body,
    bytes_max: usize,
    deadline: Instant,
    make_room: impl FnMut(usize) -> Result<(), Problem>,
) -> Result<Bytes, Problem> {
    let is_announced_too_large = body.size_hint().lower() > bytes_max as u64;
    let read = async { if is_announced_too_large { Ok(None) } else { collect(&mut body, bytes_max, make_room).await } };
    match timeout_at(deadline, read).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(body, deadline).await;
            Err(Problem::new(Code::BodyTooLarge, format!("send at most {bytes_max} bytes")))
        }
        Ok(Err(problem)) => Err(problem),
        Err(_) => Err(Problem::new(Code::BodyTimeout, "send the body faster, or name a longer deadline")),
    }
}

/// Reads further without keeping anything. A connection that is closed while its client still writes is reset, and the
/// client would lose the answer that says why. So a body that is only a little too large is read to its end.
async fn discard(mut body: Body, deadline: Instant) {
    let mut room = HTTP_DISCARD_BYTES_MAX;
    let reading = async {
        while let Ok(Some(piece)) = next_piece(&mut body).await {
            match room.checked_sub(piece.len()) {
                Some(rest) => room = rest,
                None => return,
            }
        }
    };
    if timeout_at(deadline, reading).await.is_err() {
        tracing::debug!("a body that is too large did not end in time");
    }
}

/// Checks that the headers name one of these media types for the body, and returns its place among them.
///
/// # Errors
/// 415.
pub fn check_media_type(headers: &HeaderMap, allowed: &[&str]) -> Result<usize, Problem> {
    let found = media_type(headers);
    allowed.iter().position(|media_type| found.eq_ignore_ascii_case(media_type)).ok_or_else(|| {
        let found = if found.is_empty() { "also without a body".to_owned() } else { format!("not `{found}`") };
        Problem::new(Code::WrongContentType, format!("send `Content-Type: {}`, {found}", allowed.join("` or `")))
    })
}

/// Checks that a body is not compressed: a compressed one can be a thousand times as large.
///
/// # Errors
/// 415.
pub fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(CONTENT_ENCODING) {
        if !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity") {
            let found = String::from_utf8_lossy(value.as_bytes());
            let detail = format!("`Content-Encoding: {found}` is not understood here; send the body as it is");
            return Err(Problem::new(Code::WrongContentEncoding, detail));
        }
    }
    Ok(())
}

/// The whole body; `None` if it goes beyond the bound. Room is made for what has arrived before the rest is read.
async fn collect(
    body: &mut Body,
    bytes_max: usize,
    mut make_room: impl FnMut(usize) -> Result<(), Problem>,
) -> Result<Option<Bytes>, Problem> {
    let Some(first) = next_piece(body).await? else { return Ok(Some(Bytes::new())) };
    if first.len() > bytes_max {
        return Ok(None);
    }
    make_room(first.len())?;
    let Some(second) = next_piece(body).await? else { return Ok(Some(first)) };
    let mut whole = Vec::with_capacity(first.len() + second.len());
    whole.extend_from_slice(&first);
    let mut piece = Some(second);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > bytes_max {
            return Ok(None);
        }
        make_room(whole.len() + bytes.len())?;
        whole.extend_from_slice(&bytes);
        piece = next_piece(body).await?;
    }
    Ok(Some(whole.into()))
}

/// The next piece that has bytes.
async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame =
            frame.map_err(|error| Problem::new(Code::MalformedBody, format!("the body was cut off: {error}")))?;
        match frame.into_data() {
            Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
            // Trailers, and pieces without bytes, are skipped.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes()))).collect();
        Body::from_stream(stream::iter(pieces))
    }

    async fn outcome(body: Body) -> Result<String, u16> {
        let soon = Instant::now() + std::time::Duration::from_secs(1);
        let read = read_body(body, 6, soon).await.map_err(|problem| problem.status())?;
        Ok(String::from_utf8(read.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        assert_eq!(outcome(Body::empty()).await, Ok(String::new()));
        assert_eq!(outcome(Body::from("123456")).await, Ok("123456".into()));
        assert_eq!(outcome(pieces(&["", "123", "", "4", "56"])).await, Ok("123456".into()));
        assert_eq!(outcome(Body::from("1234567")).await, Err(413));
        assert_eq!(outcome(pieces(&["1234567"])).await, Err(413));
        assert_eq!(outcome(pieces(&["123", "4567"])).await, Err(413));
    }

    /// A client that is still writing when its connection closes gets a reset instead of the answer.
    #[tokio::test]
    async fn a_body_that_is_too_large_is_read_to_its_end() {
        for sizes in [[7, 100], [3, 100]] {
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            let body = Body::from_stream(stream::unfold(receiver, |mut receiver| async move {
                let piece: Bytes = receiver.recv().await?;
                Some((Ok::<_, std::io::Error>(piece), receiver))
            }));
            let writing = tokio::spawn(async move {
                for size in sizes {
                    sender.send(Bytes::from(vec![b' '; size])).await.expect("the host still reads");
                }
            });
            assert_eq!(outcome(body).await, Err(413));
            writing.await.expect("everything was written");
        }
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_breaks_off_is_refused() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        // The deadline has passed already, so nothing is waited for.
        let read = read_body(stalled, 6, Instant::now()).await;
        assert_eq!(read.map_err(|problem| problem.status()), Err(408));
        let broken = stream::iter([Ok(Bytes::from_static(b"1")), Err(std::io::Error::other("reset"))]);
        assert_eq!(outcome(Body::from_stream(broken)).await, Err(400));
    }
}
