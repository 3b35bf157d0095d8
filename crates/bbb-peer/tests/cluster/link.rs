//! The cable of a node: everything that reaches it goes through here, and stops or breaks when the test says so.

use std::net::SocketAddr;

use bbb_lifecycle::TaskGroup;
use tokio::{
    io,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Whole,
    /// Connections are accepted, and nothing comes through them.
    Hung,
    /// Connections break, and new ones as well.
    Cut,
}

pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
}

impl Link {
    /// A cable to `node`.
    pub(crate) async fn to(node: SocketAddr, tasks: &TaskGroup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, state) = watch::channel(State::Whole);
        let (stop, owner) = (tasks.stop(), tasks.clone());
        tasks.spawn("link", async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop.requested() => return,
                };
                let (state, stop) = (state.clone(), owner.stop());
                owner.spawn("wire", async move {
                    tokio::select! {
                        () = carry(accepted, node, state) => {}
                        () = stop.requested() => {}
                    }
                });
            }
        });
        Self { address, state: sender }
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn carry(mut from: TcpStream, node: SocketAddr, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| *state != State::Hung).await.is_err() || *state.borrow() == State::Cut
    {
        return;
    }
    from.set_nodelay(true).unwrap();
    let Ok(mut to) = TcpStream::connect(node).await else { return };
    to.set_nodelay(true).unwrap();
    loop {
        tokio::select! {
            biased;
            changed = state.changed() => {
                if changed.is_err() || *state.borrow() == State::Cut {
                    return;
                }
                // What was read and not written when it hangs is lost, so a hung wire never goes on.
                if *state.borrow() == State::Hung {
                    drop(state.wait_for(|state| *state != State::Hung).await);
                    return;
                }
            }
            _ = io::copy_bidirectional(&mut from, &mut to) => return,
        }
    }
}
