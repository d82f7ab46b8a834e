//! The folders of the simulated disk: what each name stands for, as running programs see it and as a power cut leaves
//! it.
//!
//! Changes of names and syncs of folders go in. What a path leads to comes out. Syncing a folder makes its own names
//! durable and no others, as on the strictest file systems. Of the remaining changes a crash keeps a prefix. This file
//! does not know what is in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Result};
use std::path::{Component, Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

const ROOT: usize = 0;

/// The thing that a name stands for: the number of a file, or of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TreeNode {
    File(usize),
    Folder(usize),
}

#[derive(Clone)]
pub struct Tree {
    folders: Vec<TreeFolder>,
    /// The changes since their folders were synced, oldest first. Each one happens completely or not at all.
    changes: Vec<Vec<NameChange>>,
}

#[derive(Clone, Default)]
struct TreeFolder {
    names: BTreeMap<String, TreeNode>,
    synced: BTreeMap<String, TreeNode>,
}

/// A name in a folder, and the thing it stands for from now on.
#[derive(Clone)]
struct NameChange {
    folder: usize,
    name: String,
    node: Option<TreeNode>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { folders: vec![TreeFolder::default()], changes: Vec::new() }
    }
}

impl Tree {
    pub fn find(&self, path: &Path) -> Option<TreeNode> {
        names_of(path).try_fold(TreeNode::Folder(ROOT), |node, name| match node {
            TreeNode::Folder(folder) => self.folders[folder].names.get(name).copied(),
            TreeNode::File(_) => None,
        })
    }

    pub fn file(&self, path: &Path) -> Result<usize> {
        match self.find(path).ok_or(ErrorKind::NotFound)? {
            TreeNode::File(file) => Ok(file),
            TreeNode::Folder(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        Ok(self.folders[self.folder(path)?].names.keys().cloned().collect())
    }

    /// All files with a name below a path, each once.
    pub fn files_below(&self, path: &Path) -> BTreeSet<usize> {
        let mut files = BTreeSet::new();
        let mut left: Vec<TreeNode> = self.find(path).into_iter().collect();
        while let Some(node) = left.pop() {
            match node {
                TreeNode::File(file) => _ = files.insert(file),
                TreeNode::Folder(folder) => left.extend(self.folders[folder].names.values()),
            }
        }
        files
    }

    /// Makes the folder and its parents. They are durable, and so is everything else that happened in the parents.
    pub fn make_folders(&mut self, path: &Path) -> Result<()> {
        let mut at = ROOT;
        for name in names_of(path) {
            let next = match self.folders[at].names.get(name) {
                Some(TreeNode::Folder(folder)) => *folder,
                Some(TreeNode::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => {
                    self.folders.push(TreeFolder::default());
                    let made = self.folders.len() - 1;
                    self.change(vec![NameChange::new(at, name, Some(TreeNode::Folder(made)))]);
                    made
                }
            };
            self.sync(at);
            at = next;
        }
        Ok(())
    }

    /// Gives a file a name, and replaces the thing that had it.
    pub fn name(&mut self, path: &Path, file: usize) -> Result<()> {
        let (folder, name) = self.place(path)?;
        if let Some(TreeNode::Folder(_)) = self.folders[folder].names.get(name) {
            return Err(ErrorKind::IsADirectory.into());
        }
        self.change(vec![NameChange::new(folder, name, Some(TreeNode::File(file)))]);
        Ok(())
    }

    /// Gives a file a durable name, in a folder that is made if necessary. Nothing else becomes durable.
    pub fn put(&mut self, path: &Path, file: usize) {
        let folder = names_of(path.parent().unwrap_or(Path::new(""))).fold(ROOT, |at, name| {
            match self.folders[at].names.get(name) {
                Some(TreeNode::Folder(folder)) => *folder,
                found => {
                    assert_eq!(found, None, "no file is where a folder should be");
                    self.folders.push(TreeFolder::default());
                    let made = self.folders.len() - 1;
                    self.put_name(at, name, TreeNode::Folder(made));
                    made
                }
            }
        });
        self.put_name(folder, names_of(path).last().expect("a file has a name"), TreeNode::File(file));
    }

    fn put_name(&mut self, folder: usize, name: &str, node: TreeNode) {
        let naming = NameChange::new(folder, name, Some(node));
        naming.happen(&mut self.folders[folder].names);
        naming.happen(&mut self.folders[folder].synced);
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let node = self.find(from).ok_or(ErrorKind::NotFound)?;
        let ((from_folder, from_name), (to_folder, to_name)) = (self.place(from)?, self.place(to)?);
        match (node, self.folders[to_folder].names.get(to_name)) {
            (_, Some(TreeNode::Folder(there))) if !self.folders[*there].names.is_empty() => {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            (TreeNode::Folder(_), Some(TreeNode::File(_))) => return Err(ErrorKind::NotADirectory.into()),
            (TreeNode::File(_), Some(TreeNode::Folder(_))) => return Err(ErrorKind::IsADirectory.into()),
            _ => {}
        }
        let gone = NameChange::new(from_folder, from_name, None);
        self.change(vec![gone, NameChange::new(to_folder, to_name, Some(node))]);
        Ok(())
    }

    /// Removes a file's name, or that of an empty folder.
    pub fn remove(&mut self, path: &Path) -> Result<()> {
        let (folder, name) = self.place(path)?;
        match self.folders[folder].names.get(name).ok_or(ErrorKind::NotFound)? {
            TreeNode::Folder(below) if !self.folders[*below].names.is_empty() => {
                Err(ErrorKind::DirectoryNotEmpty.into())
            }
            _ => {
                self.change(vec![NameChange::new(folder, name, None)]);
                Ok(())
            }
        }
    }

    /// The path and everything below it, deepest first; empty if there is nothing.
    pub fn walk(&self, path: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        if let Some(TreeNode::Folder(folder)) = self.find(path) {
            found.extend(self.folders[folder].names.keys().flat_map(|name| self.walk(&path.join(name))));
        }
        found.extend(self.find(path).map(|_| path.to_owned()));
        found
    }

    pub fn sync_folder(&mut self, path: &Path) -> Result<()> {
        let folder = self.folder(path)?;
        self.sync(folder);
        Ok(())
    }

    /// The folders when the power returns.
    pub fn after_crash(&self, random: &mut StdRng) -> Self {
        let mut folders = self.folders.clone();
        let kept = random.random_range(0..=self.changes.len());
        self.changes[..kept].iter().flatten().for_each(|naming| naming.happen(&mut folders[naming.folder].synced));
        folders.iter_mut().for_each(|folder| folder.names = folder.synced.clone());
        Self { folders, changes: Vec::new() }
    }

    fn folder(&self, path: &Path) -> Result<usize> {
        match self.find(path).ok_or(ErrorKind::NotFound)? {
            TreeNode::Folder(folder) => Ok(folder),
            TreeNode::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// The folder that a path is in, and its name there.
    fn place<'p>(&self, path: &'p Path) -> Result<(usize, &'p str)> {
        let name = names_of(path).last().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.folder(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn change(&mut self, change: Vec<NameChange>) {
        change.iter().for_each(|naming| naming.happen(&mut self.folders[naming.folder].names));
        self.changes.push(change);
    }

    /// Makes the changes in a folder durable, with all other parts of these changes and earlier changes of the same
    /// names.
    fn sync(&mut self, folder: usize) {
        let mut names = BTreeSet::new();
        let mut is_durable = vec![false; self.changes.len()];
        for (change, is_durable) in self.changes.iter().zip(&mut is_durable).rev() {
            let is_of =
                |naming: &NameChange| naming.folder == folder || names.contains(&(naming.folder, naming.name.clone()));
            *is_durable = change.iter().any(is_of);
            if *is_durable {
                names.extend(change.iter().map(|naming| (naming.folder, naming.name.clone())));
            }
        }
        for (change, is_durable) in std::mem::take(&mut self.changes).into_iter().zip(is_durable) {
            if is_durable {
                change.iter().for_each(|naming| naming.happen(&mut self.folders[naming.folder].synced));
            } else {
                self.changes.push(change);
            }
        }
    }
}

impl NameChange {
    fn new(folder: usize, name: &str, node: Option<TreeNode>) -> Self {
        Self { folder, name: name.to_owned(), node }
    }

    fn happen(&self, names: &mut BTreeMap<String, TreeNode>) {
        match self.node {
            Some(node) => _ = names.insert(self.name.clone(), node),
            None => _ = names.remove(&self.name),
        }
    }
}

fn names_of(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}
