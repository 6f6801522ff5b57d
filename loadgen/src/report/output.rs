//! The files that runs and comparisons are written to. The extension says which form.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;

use super::{csv, hlog, html, json::Document, markdown};
use crate::{
    console::{self, COULD_NOT_RUN},
    plan::Problem,
};

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
    /// Returns what to print, which is nothing, and the exit code.
    pub(crate) fn carry_out(&self) -> Result<(String, u8), String> {
        let run = Document::read(&self.run)?;
        let outputs = Output::open_all(&self.output)?;
        Ok((String::new(), Output::write_all(outputs, &run)))
    }
}

/// What is wrong with the names of files for reports or comparisons.
pub(crate) fn problems<T: Forms>(paths: &[PathBuf]) -> Vec<Problem> {
    let reasons = paths.iter().filter_map(|path| T::form_of(path).err());
    reasons.map(|reason| Problem { flag: "--output", reason }).collect()
}

/// A file for a report, opened before there is one. Dropped without, it disappears again if it was
/// not there.
///
/// The report is written to a file beside it, which takes its place once it is complete. So a disk
/// that is full costs neither what was there before nor leaves half of a report.
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

    /// Writes to all of them, and complains where that fails. Returns the exit code.
    pub(crate) fn write_all(outputs: Vec<Self>, content: &T) -> u8 {
        let mut exit_code = 0;
        for output in outputs {
            if let Err(error) = output.write(content) {
                console::complain(error);
                exit_code = COULD_NOT_RUN;
            }
        }
        exit_code
    }

    fn write(mut self, content: &T) -> Result<(), String> {
        let text = (self.form)(content);
        let written = self.replace(text.as_bytes());
        self.is_new &= written.is_err();
        written.map_err(|error| describe(&self.path, &error))
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.file.metadata()?;
        if !before.is_file() {
            // A device or a pipe: it has nothing that could be replaced.
            return self.file.write_all(bytes);
        }
        // A link stays: what it leads to is replaced.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        match tempfile::Builder::new().prefix(".loadgen-").tempfile_in(folder) {
            Err(error) if is_lack_of_room(&error) => return Err(error),
            Err(_) => {}
            Ok(mut beside) => {
                beside.write_all(bytes)?;
                beside.as_file().set_permissions(before.permissions())?;
                if beside.persist(path).is_ok() {
                    return Ok(());
                }
            }
        }
        // The folder takes no other file, or this one is mounted: it can still be written itself.
        self.file.set_len(0)?;
        self.file.write_all(bytes)
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

fn is_lack_of_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn describe(path: &Path, error: &io::Error) -> String {
    format!("cannot write {} (--output): {error}; choose another file", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::report::json::samples;

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
    fn a_report_replaces_what_a_link_leads_to_and_keeps_its_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("run.json"), folder.path().join("link.json"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink(&path, &link).unwrap();
        let output = Output::open(&link).unwrap();
        output.write(&samples::run(&[1], 20_000)).unwrap();
        assert!(link.is_symlink());
        assert!(fs::read_to_string(&path).unwrap().starts_with('{'));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_unknown_format_says_which_are_known() {
        let problem = Document::form_of(Path::new("run.txt")).unwrap_err();
        for (extension, _) in Document::FORMS {
            assert!(problem.contains(extension), "{problem}");
        }
    }
}
