//! Any bytes are a directory, a tree, a command or an action, or are refused.
#![no_main]

use bbb_digest::Function;
use bbb_reapi::{Action, Command, Directory, Tree};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(directory) = Directory::decode(Function::Sha256, bytes) {
        for name in directory.names() {
            let name = name.as_str();
            assert!(!matches!(name, "" | "." | "..") && !name.contains(['/', '\0']));
        }
    }
    if let Ok(command) = Command::decode(bytes) {
        for output in command.outputs.iter() {
            assert!(output.path.segments().all(|segment| segment != ".."));
        }
    }
    let _ = Tree::decode(Function::Sha256, bytes);
    let _ = Action::decode(Function::Sha256, bytes);
});
