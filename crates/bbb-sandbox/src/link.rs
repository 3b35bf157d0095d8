//! The node's end of one launcher process: starts it, sends calls, hands reports to those who wait.
//!
//! Two threads, since both ends are plain descriptors and the runtime is not to block: one writes, one reads. The
//! reader ends when the last process that could report is gone, which is when a lost launcher's actions are dead.

use std::any::Any;
use std::collections::HashMap;
use std::io::{self, PipeReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::error::StartError;
use crate::launcher;
use crate::message::{Call, Ending, Facts, Report, Settings};
use crate::wire::{self, Wire};

/// The first answer to an order.
#[derive(Debug)]
pub(crate) enum Answer {
    Ended(Ending),
    Failed { what: String, source: io::Error },
    Lost,
}

struct Waiting {
    answer: Option<oneshot::Sender<Answer>>,
    _hold: Option<Arc<dyn Any + Send + Sync>>,
}

/// Orders that have no end yet, by number; `None` once the launcher is gone.
type Pending = Mutex<Option<HashMap<u64, Waiting>>>;

/// A running launcher. Dropping it ends the launcher and all its actions.
pub(crate) struct Link {
    /// Frames to be written. Unbounded, but no run puts more than two in: its order and its cancellation.
    frames: Sender<Vec<u8>>,
    pending: Arc<Pending>,
    process: u32,
    facts: Facts,
}

impl Link {
    /// Starts a launcher and waits until it can take orders.
    pub(crate) fn start(binary: Option<&Path>, settings: &Settings) -> Result<Self, StartError> {
        let (ours, theirs) = UnixStream::pair().map_err(StartError::Execute)?;
        let (mut reports, writer) = io::pipe().map_err(StartError::Execute)?;
        let child = Command::new(binary.unwrap_or(Path::new("/proc/self/exe")))
            .arg(launcher::ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(writer))
            .spawn()
            .map_err(StartError::Execute)?;
        let frame = Call::Configure(settings.clone())
            .to_frame()
            .map_err(|_| StartError::Config("folders are too many or too long".into()))?;
        let mut child = Reaped(child);
        let facts = match (&ours).write_all(&frame).and_then(|()| wire::read_body(&mut reports)) {
            Ok(Some(body)) => match Report::from_body(&body) {
                Ok(Report::Ready(facts)) => facts,
                Ok(Report::Failed { what, code, .. }) => {
                    return Err(StartError::Setup {
                        what,
                        source: io::Error::from_raw_os_error(code),
                    });
                }
                _ => return Err(StartError::Ended),
            },
            _ => return Err(StartError::Ended),
        };
        let (frames, to_write) = channel();
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let process = child.0.id();
        let held = Arc::clone(&pending);
        thread::Builder::new()
            .name("sandbox-reports".into())
            .spawn(move || {
                read(reports, &held);
                child.wait();
                lose(&held);
            })
            .map_err(StartError::Execute)?;
        thread::Builder::new()
            .name("sandbox-calls".into())
            .spawn(move || write(&ours, &to_write))
            .map_err(StartError::Execute)?;
        Ok(Link { frames, pending, process, facts })
    }

    /// What the launcher found out.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The launcher's process id.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Whether the launcher takes orders no more.
    pub(crate) fn is_lost(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Sends an order, as a frame with its number. The answer comes once; the hold is kept until nothing of the action
    /// lives. `None` if the launcher is gone: then nothing happened.
    pub(crate) fn send(
        &self,
        id: u64,
        frame: Vec<u8>,
        hold: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Option<oneshot::Receiver<Answer>> {
        let (answer, answered) = oneshot::channel();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()?
            .insert(id, Waiting { answer: Some(answer), _hold: hold });
        // A writer that is gone means that the reader will soon find the launcher lost, and say so.
        let _ = self.frames.send(frame);
        Some(answered)
    }

    /// Has what runs under `id` killed.
    pub(crate) fn cancel(&self, id: u64) {
        if let Ok(frame) = Call::Cancel(id).to_frame() {
            let _ = self.frames.send(frame);
        }
    }
}

/// A child that is waited for, whatever happens.
struct Reaped(Child);

impl Reaped {
    fn wait(&mut self) {
        let _ = self.0.wait();
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        // Without effect on one that was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write(mut to: &UnixStream, frames: &Receiver<Vec<u8>>) {
    while let Ok(frame) = frames.recv() {
        if to.write_all(&frame).is_err() {
            return;
        }
    }
}

fn read(mut reports: PipeReader, pending: &Pending) {
    while let Ok(Some(body)) = wire::read_body(&mut reports) {
        let Ok(report) = Report::from_body(&body) else { return };
        let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = pending.as_mut() else { return };
        match report {
            Report::Ready(_) => {}
            Report::Failed { id, what, code } => {
                if let Some(waiting) = pending.get_mut(&id) {
                    waiting
                        .tell(Answer::Failed { what, source: io::Error::from_raw_os_error(code) });
                }
            }
            Report::Ended { id, ending } => {
                if let Some(mut waiting) = pending.remove(&id) {
                    waiting.tell(Answer::Ended(*ending));
                }
            }
            Report::Gone(id) => {
                if let Some(mut waiting) = pending.remove(&id) {
                    waiting.tell(Answer::Lost);
                }
            }
        }
    }
}

fn lose(pending: &Pending) {
    let lost = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    for mut waiting in lost.unwrap_or_default().into_values() {
        waiting.tell(Answer::Lost);
    }
}

impl Waiting {
    fn tell(&mut self, answer: Answer) {
        if let Some(sender) = self.answer.take() {
            let _ = sender.send(answer);
        }
    }
}
