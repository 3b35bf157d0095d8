//! A launcher as a binary of its own, for tests and for binaries that cannot execute themselves again.

fn main() {
    bbb_sandbox::launcher::main()
}
