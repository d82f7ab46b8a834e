//! The promises that both disks make, and the losses of the simulated one.

use std::io::{ErrorKind, Write};
use std::path::Path;

use super::*;

/// Both disks, each with an empty folder.
fn check(conforms: impl Fn(&dyn Disk, &Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    conforms(&RealDisk, folder.path());
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/a")).expect("nothing fails");
    conforms(&disk, Path::new("/a"));
}

fn write(disk: &dyn Disk, path: &Path, content: &[u8]) {
    disk.create(path).and_then(|file| file.write_at(content, 0)).expect("the folder is there");
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn files_have_the_names_they_were_given() {
    check(|disk, dir| {
        let (one, two) = (dir.join("one"), dir.join("two"));
        write(disk, &one, b"1");
        disk.link(&one, &two).expect("it is new");
        assert_eq!(kind(disk.link(&one, &two)), Some(ErrorKind::AlreadyExists));
        let identity = |path: &Path| disk.open(path).and_then(|file| file.identity()).expect("readable");
        assert_eq!(identity(&one), identity(&two));
        write(disk, &one, b"first");
        assert_eq!(read_whole(disk, &two).expect("it is the same file"), b"first");
        disk.remove(&one).expect("it is there");
        assert_eq!(kind(disk.remove(&one)), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.open(&one)), Some(ErrorKind::NotFound));
        assert_eq!(disk.kind(&one).expect("readable"), None);
        assert_eq!(disk.kind(dir).expect("readable"), Some(FileKind::Folder));
        assert_eq!(disk.kind(&two).expect("readable"), Some(FileKind::File));
        write(disk, &one, b"second");
        disk.rename(&one, &two).expect("a file takes the place of another");
        assert_eq!(read_whole(disk, &two).expect("it is there"), b"second");
        assert_eq!(disk.list(dir).expect("it is there"), ["two"]);
        write_whole(disk, &two, b"3").expect("nothing fails");
        assert_eq!(read_whole(disk, &two).expect("it is there"), b"3");
    });
}

#[test]
fn folders_are_moved_and_removed_with_what_is_in_them() {
    check(|disk, dir| {
        let (old, new) = (dir.join("old"), dir.join("new"));
        assert_eq!(kind(disk.list(&old)), Some(ErrorKind::NotFound));
        assert_eq!(kind(disk.create(&old.join("file"))), Some(ErrorKind::NotFound));
        disk.create_dir_all(&old.join("below")).expect("nothing fails");
        assert_eq!(disk.list(&old).expect("it is there"), ["below"]);
        write(disk, &old.join("below/file"), b"x");
        disk.create_dir_all(&new).expect("nothing fails");
        disk.rename(&old, &new).expect("an empty folder is replaced");
        assert_eq!(disk.kind(&old).expect("readable"), None);
        assert_eq!(read_whole(disk, &new.join("below/file")).expect("it was moved"), b"x");
        disk.create_dir_all(&old).expect("nothing fails");
        assert_eq!(kind(disk.rename(&old, &new)), Some(ErrorKind::DirectoryNotEmpty));
        disk.remove_dir_all(&new).expect("nothing fails");
        disk.remove_dir_all(&new).expect("it need not be there");
        assert_eq!(disk.list(dir).expect("it is there"), ["old"]);
    });
}

#[test]
fn an_unfinished_file_has_its_name_once_it_is_whole_or_is_gone() {
    let real = tempfile::tempdir().expect("a temporary folder");
    let simulated = SimDisk::new();
    simulated.create_dir_all(Path::new("/a")).expect("nothing fails");
    let disks: [(Arc<dyn Disk>, &Path); 2] =
        [(Arc::new(RealDisk), real.path()), (Arc::new(simulated), Path::new("/a"))];
    for (disk, dir) in disks {
        let begin = || {
            let mut file = UnfinishedFile::create(disk.clone(), dir.join("aside")).expect("the folder is there");
            file.write_all(b"one").and_then(|()| file.write_all(b"two")).expect("nothing fails");
            assert_eq!(file.end(), 6);
            file
        };
        drop(begin());
        assert_eq!(disk.list(dir).expect("it is there"), [""; 0]);
        let file = begin();
        file.sync().expect("nothing fails");
        let file = file.name(&dir.join("file")).expect("nothing fails");
        assert_eq!(kind(file.read_at(&mut [0; 4], 3)), Some(ErrorKind::UnexpectedEof));
        assert_eq!(disk.list(dir).expect("it is there"), ["file"]);
        assert_eq!(read_whole(&*disk, &dir.join("file")).expect("it is there"), b"onetwo");
    }
}

#[test]
fn a_sync_of_one_folder_says_nothing_of_another() {
    let disk = SimDisk::new();
    let (a, b) = (Path::new("/a"), Path::new("/b"));
    [a, b].iter().for_each(|dir| disk.create_dir_all(dir).expect("nothing fails"));
    write(&disk, &a.join("moved"), b"");
    write(&disk, &a.join("new"), b"");
    disk.rename(&a.join("moved"), &b.join("moved")).expect("it is there");
    disk.sync_dir(b).expect("nothing fails");
    let found: Vec<_> = (0..16).map(|seed| disk.copy().crash(seed)).collect();
    for disk in &found {
        assert_eq!(disk.list(b).expect("it was synced"), ["moved"]);
        assert!(!disk.list(a).expect("it was synced").contains(&"moved".to_owned()), "a move happens whole");
    }
    let kept = found.iter().filter(|disk| disk.kind(&a.join("new")).expect("readable").is_some()).count();
    assert!(0 < kept && kept < found.len(), "{kept} of {} kept what was not synced", found.len());
}

#[test]
fn what_a_failed_sync_should_have_kept_is_lost_although_it_is_seen() {
    let disk = SimDisk::new();
    let path = Path::new("/file");
    disk.put(path, b"old".to_vec());
    let file = disk.open(path).expect("it is there");
    file.write_at(b"new", 0).expect("nothing fails");
    disk.fail_after(0);
    file.sync().expect_err("it is told to");
    assert_eq!(disk.content(path).as_deref(), Some(&b"new"[..]));
    file.sync().expect("it fails once");
    assert_eq!(disk.crash(0).content(path).as_deref(), Some(&b"old"[..]));
}
