//! The files of this package as the house rules see them: relative paths and texts.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the package.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Relative path and text of each Rust file below these folders.
pub fn rust_files(folders: &[&str]) -> Vec<(String, String)> {
    files_below(folders, |path| path.extension().is_some_and(|end| end == "rs"))
}

/// Relative path and text of each file, sorted; hidden folders, build results and files that are not
/// text are left out.
pub fn files_below(folders: &[&str], is_wanted: impl Fn(&Path) -> bool) -> Vec<(String, String)> {
    let mut pending: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !path.is_symlink() {
                if !name.starts_with('.') && name != "target" {
                    pending.push(path);
                }
            } else if is_wanted(&path)
                && let Ok(text) = fs::read_to_string(&path)
            {
                let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
                files.push((relative.to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// The room of a file: `src/pg/wal/page.rs` belongs to `pg`, `src/wiring.rs` to `wiring`.
pub fn room_of(file: &str) -> &str {
    let below = file.strip_prefix("src/").unwrap_or(file);
    below.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The name without folder and ending.
pub fn file_stem(file: &str) -> &str {
    Path::new(file).file_stem().unwrap().to_str().unwrap()
}
