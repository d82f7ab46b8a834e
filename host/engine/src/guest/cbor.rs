//! Checks CBOR from guests before it is decoded: how deeply it nests, and how many items it has.
//!
//! In: bytes that a module returned. Out: nothing, or which bound is exceeded. Decoders that are derived from types
//! recurse as deeply as the bytes nest, and turn one byte into a value as large as its type. Here neither costs more
//! than reading. It knows nothing of what the items mean.

use crate::limits;

/// A list or a map under way: how many items are still missing, or `None` if a break ends it.
type OpenItem = Option<u64>;

/// Checks the first item of `bytes` with everything in it; the decoder refuses what follows it.
///
/// # Errors
/// As text: it is cut off or not CBOR, nests more deeply than [`limits::GUEST_CBOR_DEPTH_MAX`], or has more than
/// [`limits::GUEST_CBOR_ITEMS_MAX`] items.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut rest = Rest(bytes);
    let mut open: Vec<OpenItem> = Vec::new();
    for _ in 0..limits::GUEST_CBOR_ITEMS_MAX {
        let item = rest.head()?;
        match item {
            Head::Scalar => {}
            Head::Text(size) => rest.skip(size)?,
            Head::Open(count) => open.push(count),
            Head::Break => match open.pop() {
                Some(None) => {}
                _ => return Err("CBOR with a break where nothing is open".to_owned()),
            },
        }
        if limits::GUEST_CBOR_DEPTH_MAX < open.len() {
            return Err(format!("CBOR that nests more than {} levels deep", limits::GUEST_CBOR_DEPTH_MAX));
        }
        if !matches!(item, Head::Open(Some(1..) | None)) {
            close(&mut open);
        }
        if open.is_empty() {
            return Ok(());
        }
    }
    Err(format!("CBOR of more than {} items", limits::GUEST_CBOR_ITEMS_MAX))
}

/// An item is whole. Closes all items around it that waited only for it.
fn close(open: &mut Vec<OpenItem>) {
    while let Some(Some(count)) = open.last_mut() {
        // An empty list is pushed and is whole at once.
        *count = count.saturating_sub(1);
        if *count != 0 {
            return;
        }
        open.pop();
    }
}

enum Head {
    Scalar,
    /// This many bytes follow.
    Text(u64),
    Open(OpenItem),
    Break,
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn head(&mut self) -> Result<Head, String> {
        let first = self.take(1)?;
        let (major, info) = ((first >> 5) as u8, (first & 31) as u8);
        let argument = match info {
            0..24 => Some(u64::from(info)),
            24..28 => Some(self.take(1 << (info - 24))?),
            31 => None,
            _ => return Err("no valid CBOR".to_owned()),
        };
        Ok(match (major, argument) {
            (0 | 1, Some(_)) => Head::Scalar,
            (2 | 3, Some(size)) => Head::Text(size),
            (2..6, None) => Head::Open(None),
            (4, count) => Head::Open(count),
            (5, Some(count)) => Head::Open(Some(count.checked_mul(2).ok_or("CBOR that is cut off")?)),
            (6, Some(_)) => Head::Open(Some(1)),
            (7, None) => Head::Break,
            (7, Some(_)) => Head::Scalar,
            _ => return Err("no valid CBOR".to_owned()),
        })
    }

    /// The next bytes as a number.
    fn take(&mut self, size: usize) -> Result<u64, String> {
        let (taken, rest) = self.0.split_at_checked(size).ok_or("CBOR that is cut off")?;
        self.0 = rest;
        Ok(taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn skip(&mut self, size: u64) -> Result<(), String> {
        let rest = usize::try_from(size).ok().and_then(|size| self.0.get(size..));
        self.0 = rest.ok_or("CBOR that is cut off")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(bytes: &[u8]) -> String {
        check(bytes).err().unwrap_or_default()
    }

    #[test]
    fn what_is_whole_and_flat_passes() {
        // An empty list; lists in lists and a map with an empty one; definite and not; texts, a tag, floats.
        for good in [
            &[0x80][..],
            &[0x82, 0x81, 0x00, 0xa1, 0x61, b'a', 0x80],
            &[0x9f, 0x5f, 0x41, 0x00, 0xff, 0xbf, 0x00, 0xf6, 0xff, 0xff],
            &[0x84, 0xc1, 0x1a, 0, 0, 0, 1, 0xf9, 0, 0, 0xfb, 0, 0, 0, 0, 0, 0, 0, 0, 0x78, 0x01, b'x'],
            // What follows the first item is not checked.
            &[0x00, 0xff],
        ] {
            assert_eq!(checked(good), "", "{good:x?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_no_cbor_is_refused() {
        for bad in [
            &[][..],
            &[0x81],
            &[0x62, b'a'],
            &[0x1b, 0],
            &[0x9f],
            &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert!(checked(bad).contains("cut off"), "{bad:x?}");
        }
        assert_eq!(checked(&[0xff]), "CBOR with a break where nothing is open");
        assert_eq!(checked(&[0x81, 0xff]), "CBOR with a break where nothing is open");
        assert_eq!(checked(&[0x1c]), "no valid CBOR");
        assert_eq!(checked(&[0x1f]), "no valid CBOR");
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let nested = |levels: usize| [vec![0x81; levels], vec![0x00]].concat();
        assert_eq!(checked(&nested(limits::GUEST_CBOR_DEPTH_MAX)), "");
        assert!(checked(&nested(limits::GUEST_CBOR_DEPTH_MAX + 1)).contains("levels deep"));
        assert!(checked(&vec![0x9f; 1 << 20]).contains("levels deep"));
        assert!(checked(&vec![0xc1; 1 << 20]).contains("levels deep"));
        let items = limits::GUEST_CBOR_ITEMS_MAX as u32;
        let list = |count: u32| [&[0x9a][..], &count.to_be_bytes(), &vec![0xf6; count as usize]].concat();
        assert_eq!(checked(&list(items - 1)), "");
        assert!(checked(&list(items)).contains("items"));
    }
}
