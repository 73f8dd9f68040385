//! How ssh writes numbers and strings (RFC 4251, section 5).

use zeroize::Zeroizing;

/// What is left to be read.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    /// A positive whole number of any length, without leading zeros.
    pub fn big(&mut self) -> Option<&'a [u8]> {
        let number = self.string()?;
        let is_negative = number.first().is_some_and(|first| *first >= 0x80);
        (!is_negative).then(|| without_zeros(number))
    }
}

/// A message that is being written.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub fn string(self, string: &[u8]) -> Self {
        // Nothing that is written here comes near 4 GiB.
        let mut it = self.number(u32::try_from(string.len()).unwrap_or(u32::MAX));
        it.0.extend(string);
        it
    }

    pub fn big(self, number: &[u8]) -> Self {
        let number = without_zeros(number);
        let is_high = number.first().is_some_and(|first| *first >= 0x80);
        match is_high {
            true => self.string(&[&[0], number].concat()),
            false => self.string(number),
        }
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// A number without its leading zeros.
pub fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A number in so many bytes; `None`: it is longer.
pub fn padded(number: &[u8], length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let number = without_zeros(number);
    let mut padded = Zeroizing::new(vec![0; length]);
    let zeros = length.checked_sub(number.len())?;
    padded.get_mut(zeros..)?.copy_from_slice(number);
    Some(padded)
}

/// What is left of a number after a division: by subtraction, bit by bit. `modulus` isn't 0.
pub fn remainder(number: &[u8], modulus: &[u8]) -> Zeroizing<Vec<u8>> {
    let modulus = [&[0], modulus].concat();
    let mut rest = Zeroizing::new(vec![0; modulus.len()]);
    for byte in number {
        for place in (0..8).rev() {
            let mut carry = (byte >> place) & 1;
            for digit in rest.iter_mut().rev() {
                let high = *digit >> 7;
                *digit = (*digit << 1) | carry;
                carry = high;
            }
            if rest[..] >= modulus[..] {
                let mut borrow = false;
                for (digit, less) in rest.iter_mut().zip(&modulus).rev() {
                    let (part, once) = digit.overflowing_sub(*less);
                    let (part, twice) = part.overflowing_sub(u8::from(borrow));
                    (*digit, borrow) = (part, once || twice);
                }
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Writer::default().byte(7).number(8).string(b"nine").big(&[0, 0x80]).big(&[]).done();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.byte(), reader.number(), reader.string()), (Some(7), Some(8), Some(&b"nine"[..])));
        assert_eq!(
            (reader.rest(), reader.big()),
            (&[0, 0, 0, 2, 0, 0x80, 0, 0, 0, 0][..], Some(&[0x80][..]))
        );
        assert_eq!((reader.big(), reader.is_empty(), reader.byte()), (Some(&[][..]), true, None));
        // More than there is, and a number below zero.
        assert_eq!(Reader::new(&[0, 0, 0, 2, 1]).string(), None);
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0x80]).big(), None);
        assert_eq!(padded(&[0, 1, 2], 3).as_deref(), Some(&vec![0, 1, 2]));
        assert_eq!(padded(&[1, 2], 1), None);
    }

    proptest! {
        #[test]
        fn a_remainder_is_the_machines(number: u128, modulus in 1u64..) {
            let rest = remainder(&number.to_be_bytes(), &modulus.to_be_bytes());
            let rest = rest.iter().fold(0u128, |sum, digit| (sum << 8) | u128::from(*digit));
            prop_assert_eq!(rest, number % u128::from(modulus));
        }
    }
}
