//! What a request's body may be: no message over the limit, and no silence over the limit in the middle of it.
//!
//! Looks at the length before each message, so that an announced gigabyte is refused before a byte of it is kept.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::{Status, body::Body};

/// Bytes before each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// A body with limits.
pub(super) struct Guarded {
    body: Body,
    messages: Messages,
    silence: Duration,
    clock: Pin<Box<Sleep>>,
}

impl Guarded {
    pub(super) fn new(body: Body, message: usize, silence: Duration) -> Self {
        Self {
            body,
            messages: Messages::new(message),
            silence,
            clock: Box::pin(tokio::time::sleep(silence)),
        }
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            ready!(self.clock.as_mut().poll(cx));
            let seconds = self.silence.as_secs_f64();
            let status = Status::deadline_exceeded(format!("no data for {seconds} s"));
            return Poll::Ready(Some(Err(status)));
        };
        let next = Instant::now() + self.silence;
        self.clock.as_mut().reset(next);
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.messages.take(data)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where the messages of a stream begin.
struct Messages {
    most: usize,
    head: [u8; HEAD],
    /// Bytes of the head that came.
    got: usize,
    /// Bytes of the message that did not come yet.
    left: usize,
}

impl Messages {
    fn new(most: usize) -> Self {
        Self {
            most,
            head: [0; HEAD],
            got: 0,
            left: 0,
        }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let body = self.left.min(data.len());
            self.left -= body;
            data = &data[body..];
            let head = (HEAD - self.got).min(data.len());
            if self.left == 0 && head > 0 {
                self.head[self.got..self.got + head].copy_from_slice(&data[..head]);
                self.got += head;
                data = &data[head..];
            }
            if self.got == HEAD {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Status> {
        let [_, length @ ..] = self.head;
        let length = u32::from_be_bytes(length) as usize;
        if length > self.most {
            return Err(Status::resource_exhausted(format!(
                "a message of {length} bytes; the most is {}",
                self.most
            )));
        }
        self.got = 0;
        self.left = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(vec![7; length as usize]);
        bytes
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut stream = Vec::new();
        for length in [0, 1, 10, 3, 0, 10] {
            stream.extend(message(length));
        }
        let fine = stream.len();
        stream.extend(message(11));
        for piece in 1..=stream.len() {
            let mut messages = Messages::new(10);
            let mut seen = 0;
            let refused = stream.chunks(piece).find_map(|data| {
                seen += data.len();
                messages.take(data).err()
            });
            let refused = refused.unwrap();
            assert!(refused.message().contains("11 bytes"), "{refused}");
            assert!(seen >= fine + HEAD && seen < fine + HEAD + piece);
        }
    }

    #[tokio::test]
    async fn a_body_that_falls_silent_is_ended() {
        let silence = Duration::from_millis(300);
        let (sender, frames) = tokio::sync::mpsc::channel(1);
        let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
        let body = Body::new(http_body_util::StreamBody::new(frames));
        let mut guarded = Guarded::new(body, 10, silence);
        let start = Instant::now();
        let speak = async {
            // Longer than the limit in all, but never silent for so long.
            for _ in 0..8 {
                tokio::time::sleep(silence / 4).await;
                let frame = Frame::data(Bytes::from(message(2)));
                sender.send(Ok::<_, Status>(frame)).await.unwrap();
            }
        };
        let listen = async {
            for _ in 0..8 {
                assert!(guarded.frame().await.unwrap().is_ok());
            }
            guarded.frame().await.unwrap().unwrap_err()
        };
        let ((), end) = tokio::join!(speak, listen);
        assert_eq!(end.code(), tonic::Code::DeadlineExceeded);
        assert!(start.elapsed() >= silence * 3);
    }
}
