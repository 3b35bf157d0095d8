//! The benchmark as a program of its own.

use clap::Parser;

#[derive(Parser)]
#[command(name = "bbb-bench")]
struct Options {
    #[command(flatten)]
    bench: bbb_bench::Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    bbb_bench::run(Options::parse().bench).await
}
