//! The sandbox's launcher as a binary of this crate, for its tests.

fn main() {
    bbb_sandbox::launcher::main()
}
