//! Hash keys and hash diffs: SHA-256, cut to the 16 bytes of a UUID.
//!
//! A key depends on business keys alone, never on a sequence, so that workers that know nothing of each other
//! give one thing one key. It is computed here and nowhere else: SQL never hashes. `golden.json` freezes the
//! function; a change of it would orphan every row that is stored.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};
use uuid::{Builder, Uuid};

/// The key of a hub or of a link: `name` is the table's, `business_keys` are those of the hub, or of the hubs that
/// the link joins, in the order of the model. They are normalised here.
///
/// Without any business key (all are blank) the key is that of the ghost record, the all-zero UUID.
#[must_use]
pub fn hash_key(name: &str, business_keys: &[&str]) -> Uuid {
    if business_keys.iter().all(|key| key.trim().is_empty()) {
        return Uuid::nil();
    }
    let mut digest = Sha256::new();
    add_part(&mut digest, name);
    for key in business_keys {
        add_part(&mut digest, &normalise(key));
    }
    into_uuid(digest)
}

/// The digest of a satellite row's attributes, exactly as they are stored: two rows with one hash diff say the same.
#[must_use]
pub fn hash_diff<T: AsRef<str>>(attributes: impl IntoIterator<Item = T>) -> Uuid {
    let mut digest = Sha256::new();
    for attribute in attributes {
        add_part(&mut digest, attribute.as_ref());
    }
    into_uuid(digest)
}

/// A business key without surrounding white space and in Unicode's composed form (NFC), so that one thing that is
/// spelt in two byte sequences is one thing. Letter case is kept: ids are case-sensitive.
#[must_use]
pub fn normalise(key: &str) -> Cow<'_, str> {
    if is_nfc_quick(key.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(key.trim());
    }
    let composed: String = key.nfc().collect();
    Cow::Owned(composed.trim().to_owned())
}

/// Each part goes in behind its length (four bytes, big endian): no separator that a key could contain.
fn add_part(digest: &mut Sha256, part: &str) {
    let length = u32::try_from(part.len()).expect("a record is far smaller than 4 GiB");
    digest.update(length.to_be_bytes());
    digest.update(part);
}

/// The first 16 bytes with the version and variant bits of a `UUIDv8`, which RFC 9562 keeps for such uses.
fn into_uuid(digest: Sha256) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn golden() -> Value {
        serde_json::from_str(include_str!("golden.json")).unwrap()
    }

    fn texts(value: &Value) -> Vec<&str> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect()
    }

    #[test]
    fn keys_are_those_of_the_golden_vectors() {
        for vector in golden()["hash_key"].as_array().unwrap() {
            let key = hash_key(vector["name"].as_str().unwrap(), &texts(&vector["business_keys"]));
            assert_eq!(key.to_string(), vector["key"], "{vector}");
        }
    }

    #[test]
    fn diffs_are_those_of_the_golden_vectors() {
        for vector in golden()["hash_diff"].as_array().unwrap() {
            assert_eq!(
                hash_diff(texts(&vector["attributes"])).to_string(),
                vector["diff"],
                "{vector}"
            );
        }
    }

    #[test]
    fn text_does_not_move_across_the_border_of_two_parts() {
        assert_ne!(hash_key("l", &["ab", "c"]), hash_key("l", &["a", "bc"]));
        assert_ne!(hash_diff(["ab", ""]), hash_diff(["a", "b"]));
        assert_ne!(hash_diff(["a"]), hash_diff(["a", ""]));
    }

    #[test]
    fn one_spelling_of_a_key_is_as_good_as_another() {
        let composed = "Йогурт";
        let decomposed = "И\u{306}огурт";
        assert_eq!(
            hash_key("h_category", &[composed]),
            hash_key("h_category", &[decomposed])
        );
        assert_eq!(
            hash_key("h_category", &[composed]),
            hash_key("h_category", &[" \u{a0}Йогурт\n"])
        );
        assert_ne!(
            hash_key("h_category", &[composed]),
            hash_key("h_category", &["йогурт"])
        );
    }

    #[test]
    fn the_same_business_key_in_two_hubs_has_two_keys() {
        assert_ne!(hash_key("h_user", &["7"]), hash_key("h_product", &["7"]));
    }

    #[test]
    fn a_blank_business_key_leads_to_the_ghost_record() {
        assert_eq!(hash_key("h_category", &[" \u{2003}"]), Uuid::nil());
        assert_ne!(hash_key("l_product_category", &["6276", ""]), Uuid::nil());
    }

    #[test]
    fn attributes_are_not_normalised() {
        assert_ne!(hash_diff(["Йогурт"]), hash_diff(["И\u{306}огурт"]));
        assert_ne!(hash_diff(["kira"]), hash_diff(["kira "]));
    }

    proptest! {
        #[test]
        fn normalising_again_changes_nothing(key in r"\PC{0,20}|[ \tИи\u{306}\u{a0}\u{301}\u{2000}a]{0,8}") {
            let once = normalise(&key).into_owned();
            prop_assert_eq!(normalise(&once), once.as_str());
        }

        #[test]
        fn every_key_is_a_version_8_uuid(keys in prop::collection::vec("[a-z]{1,4}", 1..4)) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let key = hash_key("h_user", &keys);
            prop_assert_eq!((key.get_version_num(), key.get_variant()), (8, uuid::Variant::RFC4122));
        }
    }
}
