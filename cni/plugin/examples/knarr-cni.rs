//! The plugin alone, for tests with other CNI drivers. In the product it is the knarr binary under this name.

fn main() {
    std::process::exit(knarr_plugin::main());
}
