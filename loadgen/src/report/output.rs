//! The files that runs and comparisons are written to. The extension says which form.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{csv, hlog, html, json::Document, markdown};
use crate::plan::Problem;

/// How something is written in one form.
pub(crate) type Form<T> = fn(&T) -> String;

/// What can be written to files, in the form that the extension asks for.
pub(crate) trait Forms: Sized + 'static {
    /// All forms, with their extensions.
    const FORMS: &'static [(&'static str, Form<Self>)];

    /// Finds the form that the name of a file asks for.
    ///
    /// # Errors
    ///
    /// A sentence without subject that names all forms.
    fn form_of(path: &Path) -> Result<Form<Self>, String> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let found = Self::FORMS.iter().find(|(known, _)| extension == Some(known));
        found.map(|(_, form)| *form).ok_or_else(|| {
            let known: Vec<_> =
                Self::FORMS.iter().map(|(extension, _)| format!(".{extension}")).collect();
            format!("is `{}`; the name must end in one of {}", path.display(), known.join(", "))
        })
    }
}

impl Forms for Document {
    const FORMS: &'static [(&'static str, Form<Self>)] = &[
        ("json", Self::to_json),
        ("html", html::write),
        ("csv", csv::write),
        ("md", markdown::write),
        ("hlog", hlog::write_log),
        ("hgrm", hlog::write_distribution),
    ];
}

/// Writes a saved run in other forms
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The run, saved with -o FILE.json
    #[arg(value_name = "RUN.json")]
    run: PathBuf,
    /// Write the report to FILE, in the format of its extension; repeatable
    #[arg(short, long, value_name = "FILE", required = true)]
    pub(crate) output: Vec<PathBuf>,
}

impl Arguments {
    pub(crate) fn carry_out(&self) -> Result<(), String> {
        let run = Document::read(&self.run)?;
        let outputs = Output::open_all(&self.output)?;
        outputs.into_iter().try_for_each(|output| output.write(&run))
    }
}

/// What is wrong with the names of files for reports or comparisons.
pub(crate) fn problems<T: Forms>(paths: &[PathBuf]) -> Vec<Problem> {
    let reasons = paths.iter().filter_map(|path| T::form_of(path).err());
    reasons.map(|reason| Problem { flag: "--output", reason }).collect()
}

/// A file for a report, opened before there is one. Dropped without, it disappears again if it was
/// not there.
#[derive(Debug)]
pub(crate) struct Output<T> {
    path: PathBuf,
    file: File,
    form: Form<T>,
    is_new: bool,
}

impl<T: Forms> Output<T> {
    /// Opens all files, or says which cannot be written.
    pub(crate) fn open_all(paths: &[PathBuf]) -> Result<Vec<Self>, String> {
        paths.iter().map(|path| Self::open(path)).collect()
    }

    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let form = T::form_of(path).map_err(|reason| format!("--output {reason}"))?;
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| describe(path, &error))?;
        Ok(Self { path: path.to_owned(), file, form, is_new })
    }

    pub(crate) fn write(mut self, content: &T) -> Result<(), String> {
        let text = (self.form)(content);
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(text.as_bytes()));
        self.is_new &= written.is_err();
        written.map_err(|error| describe(&self.path, &error))
    }
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        if self.is_new {
            // It is empty: nothing is lost if it stays.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn describe(path: &Path, error: &io::Error) -> String {
    format!("cannot write {} (--output): {error}; choose another file", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_is_never_written_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        drop(Output::<Document>::open(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "old").unwrap();
        drop(Output::<Document>::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn an_unknown_format_says_which_are_known() {
        let problem = Document::form_of(Path::new("run.txt")).unwrap_err();
        for (extension, _) in Document::FORMS {
            assert!(problem.contains(extension), "{problem}");
        }
    }
}
