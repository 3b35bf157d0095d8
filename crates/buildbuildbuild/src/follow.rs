//! Following a log from a command line.
//!
//! What is printed are the log's bytes and nothing else. When the node does not answer, it is asked again where the log was, for
//! a while.

use std::{io::Write, time::Duration};

use anyhow::Context as _;
use bbb_reapi::proto::bytestream::{ReadRequest, byte_stream_client::ByteStreamClient};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// How often in a row a node may fail to answer, and the pause between.
const MAX_FAILURES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Why a log is not read on.
#[derive(Debug)]
enum Broken {
    Status(Status),
    Output(std::io::Error),
}

/// Prints a log of the node at `server`, as in `grpc://127.0.0.1:1234`, until it ends.
///
/// # Errors
/// If there is no such log, it was cut, the node does not answer, or nobody takes what is printed.
pub async fn follow(server: &str, name: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let address = server.strip_prefix("grpc://").context("a node is grpc://HOST:PORT")?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{server} is no address"))?;
    let mut client = ByteStreamClient::new(endpoint.connect_lazy());
    let (mut offset, mut failures) = (0, 0);
    loop {
        let before = offset;
        let status = match read(&mut client, name, &mut offset, out).await {
            Ok(()) => return Ok(()),
            Err(Broken::Output(error)) => return Err(error).context("cannot print the log"),
            Err(Broken::Status(status)) => status,
        };
        failures = if offset > before { 1 } else { failures + 1 };
        if status.code() != Code::Unavailable || failures > MAX_FAILURES {
            anyhow::bail!("{name}: {}", status.message());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Prints a log from an offset on, which is moved.
async fn read(
    client: &mut ByteStreamClient<Channel>,
    name: &str,
    offset: &mut i64,
    out: &mut impl Write,
) -> Result<(), Broken> {
    let request =
        ReadRequest { resource_name: name.to_owned(), read_offset: *offset, read_limit: 0 };
    let mut pieces = client.read(request).await.map_err(Broken::Status)?.into_inner();
    while let Some(piece) = pieces.message().await.map_err(Broken::Status)? {
        out.write_all(&piece.data).and_then(|()| out.flush()).map_err(Broken::Output)?;
        *offset += piece.data.len() as i64;
    }
    Ok(())
}
