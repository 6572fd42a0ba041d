//! The ledger against events written as text.
