//! Bodies: read whole, never beyond their bound, never beyond the deadline.
//!
//! In: the stream of a request. Out: its bytes, without a copy when they came in one piece. It knows nothing of what
//! they mean.

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{Instant, timeout_at};

use super::asked::media_type;
use super::problem::{Code, Problem};

/// # Errors
/// 408 past the deadline, 413 beyond the bound, 400 when the client breaks off.
pub async fn read_body(body: Body, bytes_max: usize, deadline: Instant) -> Result<Bytes, Problem> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large(bytes_max));
    }
    timeout_at(deadline, collect(body, bytes_max))
        .await
        .unwrap_or_else(|_| Err(Problem::new(Code::BodyTimeout, "send the body faster, or name a longer deadline")))
}

/// Checks that a body which is not empty has one of these media types, and gives its place among them.
///
/// # Errors
/// 415.
pub fn check_media_type(headers: &HeaderMap, allowed: &[&str]) -> Result<usize, Problem> {
    let found = media_type(headers);
    allowed.iter().position(|media_type| found.eq_ignore_ascii_case(media_type)).ok_or_else(|| {
        let detail = format!("send `Content-Type: {}`, not `{found}`", allowed.join("` or `"));
        Problem::new(Code::WrongContentType, detail)
    })
}

async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let Some(first) = next_piece(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > bytes_max {
        return Err(too_large(bytes_max));
    }
    let Some(second) = next_piece(&mut body).await? else { return Ok(first) };
    let mut whole = Vec::with_capacity(first.len() + second.len());
    whole.extend_from_slice(&first);
    let mut piece = Some(second);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&bytes);
        piece = next_piece(&mut body).await?;
    }
    Ok(whole.into())
}

/// The next piece that has bytes.
async fn next_piece(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| Problem::new(Code::MalformedBody, format!("the body broke off: {error}")))?;
        match frame.into_data() {
            Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
            // Trailers, and pieces without bytes.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("send at most {bytes_max} bytes"))
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
