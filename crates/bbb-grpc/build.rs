//! Compiles the interface definitions in `proto/` to the descriptors that reflection hands out.

use std::{env, error::Error, fs, path::Path};

use prost::Message as _;

const FILES: [&str; 4] = [
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/remote/asset/v1/remote_asset.proto",
    "google/bytestream/bytestream.proto",
    "google/longrunning/operations.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("descriptors.bin"), descriptors.encode_to_vec())?;
    Ok(())
}
