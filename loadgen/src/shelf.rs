//! A shelf: bytes that are written once and read at the end, kept out of memory.
//!
//! It is a temporary file that has no name, so nothing is left behind however the process ends.
//! Where there is no room for one, as in a container without a folder for temporary files, bytes
//! stay in memory.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

/// Where bytes can be put. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    file: Option<Arc<File>>,
    end: u64,
}

/// Bytes, wherever they are.
#[derive(Clone, Debug)]
pub(crate) enum Shelved {
    Here(Box<[u8]>),
    InFile { file: Arc<File>, start: u64, length: usize },
}

impl Shelf {
    pub(crate) fn new() -> Self {
        Self { file: tempfile::tempfile().ok().map(Arc::new), end: 0 }
    }

    /// Puts bytes there. They stay where they are if that fails.
    pub(crate) fn put(&mut self, shelved: &mut Shelved) {
        let (Some(file), Shelved::Here(bytes)) = (&self.file, &*shelved) else { return };
        if bytes.is_empty() {
            return;
        }
        if file.write_all_at(bytes, self.end).is_err() {
            // The disk is full, most likely: no more is put there, and what is there in part goes,
            // so that the reports may find room.
            let _ = file.set_len(self.end);
            self.file = None;
            return;
        }
        let (start, length) = (self.end, bytes.len());
        self.end += length as u64;
        *shelved = Shelved::InFile { file: Arc::clone(file), start, length };
    }

    /// Loses all that was put there, as a disk may.
    #[cfg(test)]
    pub(crate) fn lose(&self) {
        self.file.as_ref().unwrap().set_len(0).unwrap();
    }
}

impl Shelved {
    /// Returns a copy of the bytes.
    ///
    /// # Errors
    ///
    /// That of the system, if the disk does not return what it took.
    pub(crate) fn get(&self) -> io::Result<Box<[u8]>> {
        match self {
            Self::Here(bytes) => Ok(bytes.clone()),
            Self::InFile { file, start, length } => {
                let mut bytes = vec![0; *length];
                file.read_exact_at(&mut bytes, *start)?;
                Ok(bytes.into_boxed_slice())
            }
        }
    }
}

impl Default for Shelved {
    fn default() -> Self {
        Self::Here(Box::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_on_a_shelf_is_there() {
        let mut shelf = Shelf::new();
        let bytes: Vec<Box<[u8]>> =
            (0..9_u8).map(|n| vec![n; usize::from(n) * 100].into()).collect();
        let mut shelved: Vec<_> = bytes.iter().cloned().map(Shelved::Here).collect();
        shelved.iter_mut().for_each(|shelved| shelf.put(shelved));
        assert!(matches!(shelved[8], Shelved::InFile { start: 2800, length: 800, .. }));
        assert!(shelved.iter().map(|shelved| shelved.get().unwrap()).eq(bytes));
    }

    #[test]
    fn what_the_disk_has_lost_is_an_error() {
        let mut shelf = Shelf::new();
        let mut shelved = Shelved::Here([1, 2, 3].into());
        shelf.put(&mut shelved);
        shelf.lose();
        assert!(shelved.get().is_err());
    }

    #[test]
    fn without_a_file_they_stay_where_they_are() {
        let read_only = File::open("/dev/null").ok().map(Arc::new);
        for file in [None, read_only] {
            let mut shelved = Shelved::Here([1, 2, 3].into());
            let mut shelf = Shelf { file, end: 0 };
            shelf.put(&mut shelved);
            assert!(matches!(shelved, Shelved::Here(_)) && shelf.file.is_none());
            assert_eq!(*shelved.get().unwrap(), [1, 2, 3]);
        }
    }
}
