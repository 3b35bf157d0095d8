//! A body on its way through the proxy: counted, and damaged when it was told so.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{Cut, state::State};

/// What happens to a body on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Damage {
    /// The lowest bit of the byte at this offset is another one.
    FlipAt(u64),
    /// The connection ends before the byte at this offset.
    CutAt(u64),
}

/// A body on its way through.
#[derive(Debug)]
pub(super) struct Passing {
    body: Incoming,
    position: u64,
    damage: Option<Damage>,
    half_is_sent: bool,
    /// What its bytes are counted as.
    counted_as: &'static str,
    state: Arc<State>,
}

impl Passing {
    pub(super) const fn new(body: Incoming, counted_as: &'static str, state: Arc<State>) -> Self {
        Self { body, position: 0, damage: None, half_is_sent: false, counted_as, state }
    }

    pub(super) fn damaged(self, damage: Option<Damage>) -> Self {
        Self { damage, ..self }
    }

    fn pass(&mut self, data: Bytes) -> Result<Bytes, Cut> {
        if self.state.outage() {
            return Err(Cut);
        }
        let begin = self.position;
        self.position += data.len() as u64;
        let inside = |at: u64| (at >= begin && at < self.position).then(|| (at - begin) as usize);
        let data = match self.damage {
            Some(Damage::FlipAt(at)) if let Some(index) = inside(at) => {
                let mut bytes = data.to_vec();
                bytes[index] ^= 1;
                bytes.into()
            }
            Some(Damage::CutAt(at)) if at == begin => return Err(Cut),
            // What comes before the cut is still sent; the next piece begins at the cut.
            Some(Damage::CutAt(at)) if let Some(index) = inside(at) => {
                self.position = at;
                data.slice(..index)
            }
            _ => data,
        };
        self.state.count(self.counted_as, data.len() as u64);
        Ok(data)
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.position > 0 && self.damage == Some(Damage::CutAt(self.position)) {
            if std::mem::replace(&mut self.half_is_sent, true) {
                return Poll::Ready(Some(Err(Cut)));
            }
            // What came before the cut is written out when there is nothing more to take.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.body).poll_frame(context).map(|frame| {
            Some(match frame? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => self.pass(data).map(Frame::data),
                    Err(trailers) => Ok(trailers),
                },
                Err(_) => Err(Cut),
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.damage.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
