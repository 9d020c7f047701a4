//! Compile-time layout assertions and open numbers, as the two macros every module here uses.

/// Asserts the size of a structure and the offset of each listed field.
macro_rules! assert_layout {
    ($ty:ty, size $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(::core::mem::size_of::<$ty>() == $size);
            $(assert!(::core::mem::offset_of!($ty, $field) == $offset);)*
        };
    };
}

/// Declares the known values of an open number: constants, a table `ALL`, `name()`, `meaning()`.
macro_rules! open_number {
    ($ty:ident($repr:ty) { $($(#[doc = $doc:literal])* $name:ident = $value:expr;)* }) => {
        impl $ty {
            $($(#[doc = $doc])* pub const $name: Self = Self($value);)*

            /// Every known value with its name, in declaration order.
            pub const ALL: &'static [(Self, &'static str)] =
                &[$((Self::$name, stringify!($name)),)*];

            /// What a known value stands for, in a sentence.
            pub fn meaning(self) -> Option<&'static str> {
                let known: &[(Self, &str)] = &[$((Self::$name, concat!($($doc),*)),)*];
                known.iter().find(|(known, _)| *known == self).map(|(_, text)| text.trim_ascii_start())
            }

            /// The name of a known value.
            pub fn name(self) -> Option<&'static str> {
                Self::ALL.iter().find(|(known, _)| *known == self).map(|(_, name)| *name)
            }
        }

        impl ::core::fmt::Debug for $ty {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Display::fmt(self, f)
            }
        }

        impl ::core::fmt::Display for $ty {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, "{}({:#x})", stringify!($ty), self.0),
                }
            }
        }
    };
}

pub(crate) use {assert_layout, open_number};
