use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
    time,
};

use super::*;

const DEAD_AFTER: Duration = Duration::from_millis(900);

/// A server that answers questions while it is not silent, and says its name to who sends it a byte.
struct Server {
    backend: Backend,
    silent: watch::Sender<bool>,
    tasks: TaskGroup,
}

impl Server {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let backend = Backend { name: name.into(), address: listener.local_addr().unwrap() };
        let (silent, tasks) = (watch::Sender::new(false), TaskGroup::new("server"));
        let (hear, group) = (silent.subscribe(), tasks.clone());
        tasks.spawn("server", async move {
            let stop = group.stop();
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.requested() => return,
                };
                let (mut stream, _) = accepted.unwrap();
                let (mut hear, stop) = (hear.clone(), group.stop());
                group.spawn("server connection", async move {
                    let serve = async {
                        let mut byte = [0];
                        while stream.read_exact(&mut byte).await.is_ok() {
                            hear.wait_for(|silent| !*silent).await.unwrap();
                            let answer = if byte == *b"G" { "HTTP/1.1 200 OK" } else { name };
                            // Who only wanted to see how the answer begins may be gone.
                            let _sent = stream.write_all(answer.as_bytes()).await;
                        }
                    };
                    tokio::select! {
                        () = serve => {}
                        () = stop.requested() => {}
                    }
                });
            }
        });
        Self { backend, silent, tasks }
    }

    async fn end(self) {
        self.tasks.shut_down(Duration::from_secs(5)).await;
    }
}

struct Trial {
    front: Front,
    events: mpsc::UnboundedReceiver<Event>,
    tasks: TaskGroup,
}

impl Trial {
    async fn start(servers: &[&Server]) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let tasks = TaskGroup::new("front");
        let backends = servers.iter().map(|server| server.backend.clone()).collect();
        let tell = Arc::new(move |event| sender.send(event).unwrap_or(()));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let front = Front::start(listen, backends, DEAD_AFTER, tell, &tasks).await.unwrap();
        let mut trial = Self { front, events, tasks };
        for _ in servers {
            trial.until(|event| matches!(event, Event::Up { .. })).await;
        }
        trial
    }

    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) {
        while !wanted(&self.events.recv().await.unwrap()) {}
    }

    async fn client(&self) -> Client {
        Client(TcpStream::connect(self.front.address).await.unwrap())
    }
}

struct Client(TcpStream);

impl Client {
    /// The name of the server at the other end; empty when there is none.
    async fn asks(&mut self) -> String {
        let _sent = self.0.write_all(b"?").await;
        let mut name = [0; 3];
        let read = self.0.read_exact(&mut name).await;
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&name).into_owned())
    }

    async fn is_closed(&mut self) -> bool {
        let read = time::timeout(Duration::from_secs(10), self.0.read(&mut [0])).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }
}

#[tokio::test]
async fn connections_go_to_the_nodes_in_turn_and_pass_over_one_that_is_gone() {
    let (one, two) = (Server::start("one").await, Server::start("two").await);
    let trial = Trial::start(&[&one, &two]).await;
    let mut clients = [trial.client().await, trial.client().await];
    let mut names = [clients[0].asks().await, clients[1].asks().await];
    names.sort();
    assert_eq!(names, ["one", "two"]);
    one.end().await;
    for _ in 0..3 {
        assert_eq!(trial.client().await.asks().await, "two");
    }
    two.end().await;
    assert_eq!(trial.client().await.asks().await, "");
    trial.tasks.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_silent_node_gets_no_connection_and_loses_those_that_it_has() {
    let (one, two) = (Server::start("one").await, Server::start("two").await);
    let mut trial = Trial::start(&[&one, &two]).await;
    let mut clients = [trial.client().await, trial.client().await];
    assert_ne!(clients[0].asks().await, clients[1].asks().await);
    let silent = if clients[0].asks().await == "one" { 0 } else { 1 };
    one.silent.send_replace(true);
    // Even before it is known to be down.
    assert_eq!(trial.client().await.asks().await, "two");
    assert_eq!(trial.client().await.asks().await, "two");
    assert!(clients[silent].is_closed().await);
    assert_eq!(clients[1 - silent].asks().await, "two");
    one.silent.send_replace(false);
    trial.until(|event| matches!(event, Event::Up { node } if &**node == "one")).await;
    let again = [trial.client().await.asks().await, trial.client().await.asks().await];
    assert!(again.contains(&"one".to_owned()), "it came back: {again:?}");
    trial.tasks.shut_down(Duration::from_secs(5)).await;
}

#[test]
fn a_node_is_a_name_and_an_address() {
    let backend: Backend = "one=127.0.0.1:1234".parse().unwrap();
    assert_eq!((&*backend.name, backend.address.port()), ("one", 1234));
    assert!("127.0.0.1:1234".parse::<Backend>().is_err());
    assert!("one=nowhere".parse::<Backend>().is_err());
}
