//! The bodies of answers: a whole text, or a stream of events.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, watch},
};
use tokio_util::sync::CancellationToken;

/// What an answer consists of.
pub(super) enum Content {
    Whole(Option<Bytes>),
    Events(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Content {
    pub(super) fn whole(text: impl Into<Bytes>) -> Self {
        Self::Whole(Some(text.into()))
    }

    /// Sends `first`, and then the latest of `events` whenever the peer has taken what was before,
    /// until it is `over`.
    pub(super) fn events(
        first: Bytes,
        events: watch::Receiver<Bytes>,
        over: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let later = stream::unfold((events, over, place), |(mut events, over, place)| async {
            select! {
                () = over.cancelled() => return None,
                changed = events.changed() => changed.ok()?,
            }
            let latest = events.borrow_and_update().clone();
            Some((latest, (events, over, place)))
        });
        let first = stream::once(std::future::ready(first));
        Self::Events(Box::pin(stream::StreamExt::chain(first, later)))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Whole(text) => Poll::Ready(text.take()),
            Self::Events(events) => events.as_mut().poll_next(context),
        };
        data.map(|data| data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(text) => text.is_none(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Events(_) => "Events",
        })
    }
}

/// One event, as the wire has it. `data` has no line breaks.
pub(super) fn event(name: &str, data: &impl fmt::Display) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::StreamExt;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_reads_slowly_misses_events_and_none_are_kept_for_him() {
        let (sender, receiver) = watch::channel(Bytes::new());
        let over = CancellationToken::new();
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().expect("a place");
        let content = Content::events("first".into(), receiver, over.clone(), place);
        let Content::Events(mut events) = content else { panic!("not events") };
        assert_eq!(events.next().await.as_deref(), Some(&b"first"[..]));

        for number in 0..1000 {
            sender.send_replace(event("tick", &number));
        }
        let latest = events.next().await;
        assert_eq!(latest.as_deref(), Some(&b"event: tick\ndata: 999\n\n"[..]));

        over.cancel();
        assert_eq!(events.next().await, None);
        drop(events);
        assert_eq!(places.available_permits(), 1);
    }
}
