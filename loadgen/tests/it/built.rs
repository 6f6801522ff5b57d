//! The programs and examples of the workspace, for tests that start one.

use std::{env, ffi::OsStr, path::PathBuf};

use escargot::{CargoBuild, format::Message};

/// Variables that describe the package which cargo runs something of.
const ABOUT_PACKAGE: [&str; 4] =
    ["CARGO_BIN_EXE_", "CARGO_CRATE_", "CARGO_MANIFEST_", "CARGO_PKG_"];

/// Returns where the program or example of this name is, and builds it if it is out of date.
///
/// The build is the one of `cargo test --workspace`, which therefore leaves nothing to compile: in
/// the profile of this test, all at once, and with the features that tests and examples add.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    // PROFILE/deps/TEST
    let folder = test.ancestors().nth(2).and_then(|folder| folder.file_name());
    let profile = folder.filter(|folder| *folder != "debug").unwrap_or(OsStr::new("dev"));
    let mut build = CargoBuild::new().arg("--workspace").arg("--profile").arg(profile);
    // What cargo tells a test of its package would be news to build scripts, which compile anew.
    let is_of_package = |name: &str| ABOUT_PACKAGE.iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_package)) {
        build = build.env_remove(name);
    }
    let build = build.bin("arena-echo").bin("loadgen").example("checksum").example("raw_echo");
    let messages = build.exec().expect("cargo runs").map(|message| message.expect("it builds"));
    // All of them, because the build is done with the last.
    let executables = messages.filter_map(|message| match message.decode() {
        Ok(Message::CompilerArtifact(made)) if made.target.name == name => {
            made.executable.map(|path| path.into_owned())
        }
        _ => None,
    });
    executables.last().expect("a program or an example of the workspace")
}
