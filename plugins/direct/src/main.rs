//! The renderer as a process.

fn main() {
    direct::main()
}
