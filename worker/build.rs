//! Has the migrations built in again when one is added.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
