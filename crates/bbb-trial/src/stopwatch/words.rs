//! Any command, run once: how it ended, and what the server says that it used.

use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use prost_types::{Struct, value::Kind};
use tokio::time;

use super::{
    client::{Client, End, Wanted, Work},
    pairs,
};

/// A command.
#[derive(clap::Args, Clone, Debug)]
pub struct Words {
    /// Who is asked, as grpc://127.0.0.1:1234.
    #[arg(long)]
    pub server: String,
    /// What it asks of a worker, as NAME=VALUE.
    #[arg(long = "property")]
    pub properties: Vec<String>,
    /// How long it may run.
    #[arg(long = "timeout_ms")]
    pub timeout_ms: Option<u64>,
    /// How long may pass until its end is known.
    #[arg(long = "patience_s", default_value_t = 60)]
    pub patience_s: u64,
    /// The program, and its arguments.
    #[arg(required = true, last = true)]
    pub words: Vec<String>,
}

/// Runs a command; says what came of it in words of `name=value`, the server's message last.
///
/// # Errors
/// When the server does not take it, its end does not come in time, or the connection breaks.
pub async fn run(asked: &Words) -> anyhow::Result<String> {
    let wanted = Wanted {
        work: Work::Words { words: asked.words.clone(), timeout_ms: asked.timeout_ms },
        properties: pairs(&asked.properties)?,
    };
    let client = Client::new(&asked.server)?;
    let patience = Duration::from_secs(asked.patience_s);
    let ended = time::timeout(patience, client.execute(&wanted, &mut None)).await;
    Ok(said(&ended.context("it did not end in time")??))
}

fn said(end: &End) -> String {
    let mut said = vec![format!("status={} exit={}", end.status.code, end.exit_code)];
    let took = end.metadata.virtual_execution_duration.unwrap_or_default();
    said.push(format!("wall_ms={}", took.seconds * 1000 + i64::from(took.nanos) / 1_000_000));
    for any in &end.metadata.auxiliary_metadata {
        let figures = Struct::decode(&*any.value).unwrap_or_default();
        said.extend(figures.fields.into_iter().filter_map(|(name, value)| match value.kind {
            Some(Kind::NumberValue(number)) => Some(format!("{name}={number:.0}")),
            _ => None,
        }));
    }
    said.push(format!("message={}", end.message));
    said.join(" ")
}
