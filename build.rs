//! Has cargo see that the web UI was built anew: the macro that embeds it does not tell.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=webui/dist");
}
