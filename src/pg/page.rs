//! Data pages: header, checksum, and the verdict that PostgreSQL itself would give.
//!
//! Every page of every fork of a relation has this header, those of the free space and visibility
//! maps too. The two maps are not fully WAL-logged: PostgreSQL replaces their damaged pages by empty
//! ones when it reads them (`RBM_ZERO_ON_ERROR`), so a bad one among them is not lost data.
//!
//! Whether a bad page matters (it may be newer than the start of the backup) is the caller's to decide.

use super::{Lsn, Result, read};

/// Bytes of `PageHeaderData` (`src/include/storage/bufpage.h`).
pub const HEADER_SIZE: usize = 24;

/// Bytes that one step of the checksum takes: 32 lanes of 32 bits.
const ROW: usize = 128;

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// The end of the last WAL record that changed the page.
    pub lsn: Lsn,
    /// The stored checksum; zero when the cluster has none.
    pub checksum: u16,
    /// `PD_*` bits.
    pub flags: u16,
    /// Start of the free space.
    pub lower: u16,
    /// End of the free space; zero on a page that was never initialised.
    pub upper: u16,
    /// Start of the access method's own area.
    pub special: u16,
    /// The page's size with the layout's version in its low byte.
    pub pagesize_version: u16,
    /// The oldest prunable transaction, or zero.
    pub prune_xid: u32,
}

impl PageHeader {
    /// Reads the header of a page.
    ///
    /// # Errors
    /// [`Error::Short`](super::Error::Short).
    pub fn parse(page: &[u8]) -> Result<Self> {
        // Two halves, the high one first (`PageXLogRecPtr`).
        let high = read::u32_at(page, 0, "pd_lsn")?;
        let low = read::u32_at(page, 4, "pd_lsn")?;
        Ok(Self {
            lsn: Lsn(u64::from(high) << 32 | u64::from(low)),
            checksum: read::u16_at(page, 8, "pd_checksum")?,
            flags: read::u16_at(page, 10, "pd_flags")?,
            lower: read::u16_at(page, 12, "pd_lower")?,
            upper: read::u16_at(page, 14, "pd_upper")?,
            special: read::u16_at(page, 16, "pd_special")?,
            pagesize_version: read::u16_at(page, 18, "pd_pagesize_version")?,
            prune_xid: read::u32_at(page, 20, "pd_prune_xid")?,
        })
    }

    /// Whether PostgreSQL would accept the header of a page of `page_size` bytes
    /// (`src/backend/storage/page/bufpage.c`, `PageIsVerified`).
    #[must_use]
    pub fn is_sane(&self, page_size: usize) -> bool {
        self.flags & !0x0007 == 0
            && self.lower <= self.upper
            && self.upper <= self.special
            && usize::from(self.special) <= page_size
            && self.special.is_multiple_of(8)
    }
}

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The checksum fits, if there is one, and the header makes sense.
    Valid,
    /// All zeros: added to the file, never written. Normal.
    New,
    /// The stored checksum is not that of the content at this block.
    BadChecksum {
        /// Computed from the content.
        expected: u16,
        /// Stored in the page.
        found: u16,
    },
    /// The header makes no sense, or the page is empty by its header but not all zeros, or it is not
    /// a whole page.
    BadHeader,
}

/// Judges a page as PostgreSQL does when it reads it (`PageIsVerified`).
///
/// `block` counts from the start of the relation, across its files
/// ([`RelationFile::first_block`](super::RelationFile::first_block)).
#[must_use]
pub fn verify(page: &[u8], block: u32, with_checksums: bool) -> Verdict {
    let Ok(header) = PageHeader::parse(page) else {
        return Verdict::BadHeader;
    };
    if !page.len().is_multiple_of(ROW) {
        return Verdict::BadHeader;
    }
    if header.upper == 0 {
        return if is_new(page) { Verdict::New } else { Verdict::BadHeader };
    }
    if with_checksums {
        let expected = checksum(page, block);
        if expected != header.checksum {
            return Verdict::BadChecksum { expected, found: header.checksum };
        }
    }
    if header.is_sane(page.len()) { Verdict::Valid } else { Verdict::BadHeader }
}

/// Whether all bytes are zero. Pages with content are told by their first bytes.
#[must_use]
pub fn is_new(page: &[u8]) -> bool {
    let (rows, rest) = page.as_chunks::<ROW>();
    let zero = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    rows.iter().all(|row| zero(row)) && zero(rest)
}

const PRIME: u32 = 16_777_619;

const BASE_OFFSETS: [u32; 32] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// A page's checksum (`src/include/storage/checksum_impl.h`, `pg_checksum_page`): FNV-1a with a shift,
/// in 32 lanes that are folded at the end, over the page with its checksum field as zero, mixed with
/// the block's number. Never zero.
///
/// A page whose size is not a multiple of 128 has no checksum; what is left over is ignored.
#[must_use]
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW>();
    let mut sums = BASE_OFFSETS;
    if let Some((first, others)) = rows.split_first() {
        let mut first = *first;
        if let Some(field) = first.get_mut(8..10) {
            field.fill(0);
        }
        add_row(&mut sums, &first);
        for row in others {
            add_row(&mut sums, row);
        }
    }
    add_row(&mut sums, &[0; ROW]);
    add_row(&mut sums, &[0; ROW]);
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    // Below 65535, plus one: fits, and is never zero.
    u16::try_from(folded % 65_535 + 1).expect("at most 65535")
}

/// One step of every lane. Plain loops over arrays of known length: the compiler makes vector
/// instructions of them.
#[inline(always)]
fn add_row(sums: &mut [u32; 32], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{MajorVersion, fixture};
    use proptest::prelude::*;

    const PAGE: usize = 8192;

    fn real_pages() -> impl Iterator<Item = (MajorVersion, u32, Vec<u8>)> {
        MajorVersion::ALL.into_iter().flat_map(|major| {
            let file = fixture::bytes(major, "heap_page");
            let pages: Vec<_> = file.chunks(PAGE).map(<[u8]>::to_vec).collect();
            (0..).zip(pages).map(move |(block, page)| (major, block, page))
        })
    }

    #[test]
    fn f046_pages_of_real_servers_are_valid_at_their_block_only() {
        let mut seen = 0;
        for (major, block, page) in real_pages() {
            assert_eq!(verify(&page, block, true), Verdict::Valid, "{major} block {block}");
            let elsewhere = verify(&page, block + 131_072, true);
            assert!(matches!(elsewhere, Verdict::BadChecksum { .. }), "{major} block {block}");
            assert_eq!(verify(&page, block + 131_072, false), Verdict::Valid);
            let header = PageHeader::parse(&page).unwrap();
            assert_eq!(header.pagesize_version, 8192 | 4);
            assert!(header.lsn.is_valid());
            seen += 1;
        }
        assert_eq!(seen, 10);
    }

    /// 16 bits of checksum: one damage in 65,535 goes unseen, and there are 65,536 bits.
    #[test]
    fn flipped_bits_show() {
        let (_, block, page) = real_pages().next().unwrap();
        let unseen = |bit: &usize| {
            let mut page = page.clone();
            page[bit / 8] ^= 1 << (bit % 8);
            verify(&page, block, true) == Verdict::Valid
        };
        assert!((0..PAGE * 8).filter(unseen).count() <= 5);
    }

    #[test]
    fn empty_and_odd_pages() {
        let mut page = vec![0; PAGE];
        assert_eq!(verify(&page, 7, true), Verdict::New);
        for at in [0, 8, PAGE / 2, PAGE - 1] {
            page[at] = 1;
            assert!(!is_new(&page));
            assert_eq!(verify(&page, 7, false), Verdict::BadHeader, "byte {at}");
            page[at] = 0;
        }
        assert_eq!(verify(&page[..PAGE - 1], 7, true), Verdict::BadHeader);
        assert_eq!(verify(&[], 7, true), Verdict::BadHeader);
        let (_, block, good) = real_pages().next().unwrap();
        for (at, value) in [(10, 8), (13, 0x7F), (16, 1), (17, 0x40)] {
            let mut page = good.clone();
            page[at] = value;
            assert_eq!(verify(&page, block, false), Verdict::BadHeader, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(page: Vec<u8>, block: u32) {
            let verdict = verify(&page, block, true);
            prop_assert!(page.len() >= HEADER_SIZE || verdict == Verdict::BadHeader);
            prop_assert_ne!(checksum(&page, block), 0);
        }
    }
}
