//! What helps at the shell: completions, and a man page. Both follow from the command line itself.

use std::io;

use clap::{Args, Command};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;

/// Prints completions for a shell
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints the man page
#[derive(Args, Debug)]
pub(crate) struct ManPage {
    /// The page of one command, such as compare [default: the page of loadgen]
    command: Option<String>,
}

impl Completions {
    pub(crate) fn text(&self, mut program: Command) -> String {
        let name = program.get_name().to_owned();
        program.set_bin_name(name);
        program.build();
        let mut script = Vec::new();
        self.shell.generate(&program, &mut script);
        String::from_utf8(script).expect("a script is text")
    }
}

impl ManPage {
    /// Writes the page.
    ///
    /// # Errors
    ///
    /// A sentence without subject that names all pages, if there is none for this command.
    pub(crate) fn text(&self, mut program: Command) -> Result<String, String> {
        program.build();
        let page = match &self.command {
            None => program,
            Some(name) => program.find_subcommand(name).cloned().ok_or_else(|| {
                let names: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
                format!("is `{name}`, which has no page; there are {}", names.join(", "))
            })?,
        };
        let mut text = Vec::new();
        let rendered: io::Result<()> = Man::new(page).render(&mut text);
        rendered.expect("memory takes what is written");
        Ok(String::from_utf8(text).expect("a page is text"))
    }
}
