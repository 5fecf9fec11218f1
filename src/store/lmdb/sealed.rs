//! Rows with a checksum: CRC-32C over key and value, behind the value, compared whenever a row is read.
//!
//! Messages and their runs have checksums of their own; this is for all other rows.
//!
//! Invariant: no value leaves here that was not stored under its key.

use heed::{PutFlags, RoTxn, RwTxn};
use smallvec::SmallVec;

use super::Database;

/// Bytes of a checksum.
const SEAL_SIZE: usize = 4;

/// A value that is small, as most are, needs no allocation.
type Value = SmallVec<[u8; 192]>;

/// A database whose rows all have a checksum.
#[derive(Clone, Copy)]
pub(super) struct Sealed {
    rows: Database,
    name: &'static str,
}

/// A row did not have its checksum.
#[derive(Debug, thiserror::Error)]
#[error("the row {key} of {name} failed its checksum")]
struct Broken {
    name: &'static str,
    key: String,
}

impl Sealed {
    pub(super) fn new(rows: Database, name: &'static str) -> Sealed {
        Sealed { rows, name }
    }

    /// The rows as they are stored, for what does not read values.
    pub(super) fn rows(self) -> Database {
        self.rows
    }

    /// The row, if it has its checksum.
    pub(super) fn open<'t>(self, (key, value): Row<'t>) -> Result<Row<'t>, heed::Error> {
        Ok((key, unsealed(key, value).ok_or_else(|| self.broken(key))?))
    }

    fn broken(self, key: &[u8]) -> heed::Error {
        heed::Error::Decoding(Box::new(Broken { name: self.name, key: key.escape_ascii().to_string() }))
    }

    pub(super) fn get<'t>(self, txn: &'t RoTxn<'_>, key: &[u8]) -> Result<Option<&'t [u8]>, heed::Error> {
        let found = self.rows.get(txn, key)?;
        found.map(|value| unsealed(key, value).ok_or_else(|| self.broken(key))).transpose()
    }

    pub(super) fn put(self, txn: &mut RwTxn<'_>, key: &[u8], value: &[u8]) -> Result<(), heed::Error> {
        self.rows.put(txn, key, &sealed(key, value))
    }

    pub(super) fn put_with_flags(
        self,
        txn: &mut RwTxn<'_>,
        flags: PutFlags,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), heed::Error> {
        self.rows.put_with_flags(txn, flags, key, &sealed(key, value))
    }

    pub(super) fn delete(self, txn: &mut RwTxn<'_>, key: &[u8]) -> Result<bool, heed::Error> {
        self.rows.delete(txn, key)
    }

    /// The first row with this key or a higher one.
    pub(super) fn first_from<'t>(self, txn: &'t RoTxn<'_>, key: &[u8]) -> Result<Option<Row<'t>>, heed::Error> {
        self.rows.get_greater_than_or_equal_to(txn, key)?.map(|row| self.open(row)).transpose()
    }

    pub(super) fn iter<'t>(
        self,
        txn: &'t RoTxn<'_>,
    ) -> Result<impl Iterator<Item = Result<Row<'t>, heed::Error>> + 't, heed::Error> {
        Ok(self.rows.iter(txn)?.map(move |row| self.open(row?)))
    }

    pub(super) fn prefix_iter<'t>(
        self,
        txn: &'t RoTxn<'_>,
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<Row<'t>, heed::Error>> + 't, heed::Error> {
        Ok(self.rows.prefix_iter(txn, prefix)?.map(move |row| self.open(row?)))
    }
}

/// Key and value.
pub(super) type Row<'t> = (&'t [u8], &'t [u8]);

/// A value as it is stored.
fn sealed(key: &[u8], value: &[u8]) -> Value {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(key), value);
    let mut sealed = Value::from_slice(value);
    sealed.extend_from_slice(&checksum.to_le_bytes());
    sealed
}

/// The inverse of [`sealed`]; `None`: it is not what was stored.
fn unsealed<'t>(key: &[u8], value: &'t [u8]) -> Option<&'t [u8]> {
    let (value, checksum) = value.split_last_chunk::<SEAL_SIZE>()?;
    let expected = crc32c::crc32c_append(crc32c::crc32c(key), value);
    (u32::from_le_bytes(*checksum) == expected).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_stored_as_the_table_says() {
        // The check value of CRC-32C, that of "123456789".
        assert_eq!(sealed(b"1234", b"56789")[..], [b'5', b'6', b'7', b'8', b'9', 0x83, 0x92, 0x06, 0xe3]);
        assert_eq!(unsealed(b"1234", &sealed(b"1234", b"56789")), Some(&b"56789"[..]));
        assert_eq!(unsealed(b"k", &sealed(b"k", b"")), Some(&b""[..]));
    }

    #[test]
    fn every_flipped_bit_of_key_and_value_is_noticed() {
        let (key, value) = (b"journal:\x00\x01", sealed(b"journal:\x00\x01", b"value"));
        for bit in 0..8 * (key.len() + value.len()) {
            let (mut key, mut value) = (key.to_vec(), value.clone());
            let byte = bit / 8;
            match byte.checked_sub(key.len()) {
                None => key[byte] ^= 1 << (bit % 8),
                Some(at) => value[at] ^= 1 << (bit % 8),
            }
            assert_eq!(unsealed(&key, &value), None, "bit {bit}");
        }
        assert_eq!(unsealed(b"k", b"abc"), None, "too short for a checksum");
    }
}
