use std::time::Duration;

use tokio::sync::mpsc;

use super::*;

/// What a request came to.
#[derive(PartialEq, Debug)]
enum Seen {
    Answer(u16, Vec<u8>),
    /// An answer began and did not end.
    Torn,
    /// No answer.
    Reset,
}

/// A proxy before a server that answers every request with its own body, or else with `stored`.
struct Trial {
    proxy: Proxy,
    /// Method, path and host of each request that reached the server.
    arrived: mpsc::UnboundedReceiver<String>,
    tasks: TaskGroup,
}

fn stored() -> Vec<u8> {
    (0..200_000_u32).map(|n| n as u8).collect()
}

impl Trial {
    async fn start() -> Self {
        let tasks = TaskGroup::new("test");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap().to_string().parse().unwrap();
        let (tell, arrived) = mpsc::unbounded_channel();
        tasks.spawn(
            "server",
            accept(listener, tasks.clone(), move |socket, tasks| {
                let tell = tell.clone();
                tasks.spawn("server connection", async move {
                    let service = service_fn(async |request: Request<Incoming>| {
                        let host = request.headers()["host"].to_str().unwrap();
                        tell.send(format!("{} {} {host}", request.method(), request.uri()))
                            .unwrap();
                        let body = request.into_body().collect().await?.to_bytes();
                        let body = if body.is_empty() { stored().into() } else { body };
                        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
                    });
                    let _ended =
                        http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
                });
            }),
        );
        let proxy = Proxy::start(upstream, 0, 0, 7, &tasks).await.unwrap();
        Self { proxy, arrived, tasks }
    }

    async fn ask(&self, method: Method, path: &str, body: &'static [u8]) -> Seen {
        send(self.proxy.address, method, path, body).await
    }

    async fn told(&self, method: Method, path: &str) -> String {
        match send(self.proxy.control, method, path, b"").await {
            Seen::Answer(200, text) => String::from_utf8(text).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    async fn faults(&self, query: &str) {
        self.told(Method::POST, &format!("/faults?{query}")).await;
    }

    async fn count(&self, name: &str) -> u64 {
        let counts = self.told(Method::GET, "/counts").await;
        let line = counts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    async fn end(self) {
        // Clients and servers on kept connections wait for each other: nobody waits for them.
        self.tasks.shut_down(Duration::ZERO).await;
    }
}

async fn send(to: SocketAddr, method: Method, path: &str, body: &'static [u8]) -> Seen {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::builder().method(method).uri(format!("http://{to}{path}"));
    let request = request.header("host", "bucket.example").body(Full::from(body)).unwrap();
    let Ok(answer) = client.request(request).await else { return Seen::Reset };
    let status = answer.status().as_u16();
    match answer.into_body().collect().await {
        Ok(body) => Seen::Answer(status, body.to_bytes().to_vec()),
        Err(_) => Seen::Torn,
    }
}

#[tokio::test]
async fn what_no_fault_meets_goes_through_as_it_came() {
    let mut trial = Trial::start().await;
    assert_eq!(
        trial.ask(Method::PUT, "/b/k%20k?a=b", b"some bytes").await,
        Seen::Answer(200, b"some bytes".into())
    );
    assert_eq!(trial.arrived.recv().await.unwrap(), "PUT /b/k%20k?a=b bucket.example");
    assert_eq!(trial.ask(Method::GET, "/b/k", b"").await, Seen::Answer(200, stored()));
    assert_eq!(trial.count("put").await, 1);
    assert_eq!(trial.count("get").await, 1);
    assert_eq!(trial.count("status_2xx").await, 2);
    assert_eq!(trial.count("bytes_up").await, 10);
    assert_eq!(trial.count("bytes_down").await, 200_010);
    trial.told(Method::DELETE, "/counts").await;
    assert_eq!(trial.count("put").await, 0);
    trial.end().await;
}

#[tokio::test]
async fn a_lost_response_is_one_of_a_request_that_was_done() {
    let mut trial = Trial::start().await;
    trial.faults("lost_response=100").await;
    assert_eq!(trial.ask(Method::PUT, "/b/k", b"some bytes").await, Seen::Reset);
    assert!(trial.arrived.recv().await.unwrap().starts_with("PUT"));
    trial.faults("reset_before=100").await;
    assert_eq!(trial.ask(Method::PUT, "/b/k", b"some bytes").await, Seen::Reset);
    assert!(trial.arrived.try_recv().is_err(), "the server was not to see it");
    assert_eq!(trial.count("fault_lost_response").await, 1);
    assert_eq!(trial.count("fault_reset_before").await, 1);
    trial.end().await;
}

#[tokio::test]
async fn refusals_are_worded_as_by_s3() {
    let trial = Trial::start().await;
    for (faults, status, code) in [
        ("error=100", 500, "InternalError"),
        ("slow_down=100", 503, "SlowDown"),
        ("full=507", 507, "QuotaExceeded"),
    ] {
        trial.faults(faults).await;
        let Seen::Answer(got, text) = trial.ask(Method::PUT, "/b/k", b"some bytes").await else {
            panic!("{faults}: no answer");
        };
        assert_eq!(got, status);
        assert!(String::from_utf8(text).unwrap().contains(&format!("<Code>{code}</Code>")));
    }
    assert_eq!(trial.ask(Method::GET, "/b/k", b"").await, Seen::Answer(200, stored()));
    trial.end().await;
}

#[tokio::test]
async fn damage_is_one_bit_or_half_of_it() {
    let trial = Trial::start().await;
    trial.faults("corrupt=100").await;
    let Seen::Answer(200, got) = trial.ask(Method::GET, "/b/k", b"").await else {
        panic!("no answer")
    };
    let differs = got.iter().zip(stored()).filter(|(got, sent)| *got != sent).count();
    assert_eq!((got.len(), differs), (200_000, 1));
    trial.faults("truncate=100").await;
    assert_eq!(trial.ask(Method::GET, "/b/k", b"").await, Seen::Torn);
    trial.end().await;
}

#[tokio::test]
async fn an_outage_is_one_for_everybody_and_ends() {
    let trial = Trial::start().await;
    trial.faults("outage=true").await;
    assert_eq!(trial.ask(Method::GET, "/b/k", b"").await, Seen::Reset);
    // It is over in no time.
    trial.faults("outage=true&for_s=0").await;
    assert_eq!(trial.ask(Method::GET, "/b/k", b"").await, Seen::Answer(200, stored()));
    assert_eq!(trial.told(Method::GET, "/faults").await, "none\n");
    trial.end().await;
}
