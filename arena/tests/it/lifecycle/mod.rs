//! From a claim to the return of the memory: who holds it, who may write it, and when it goes back.

mod alignment;
mod frozen;
mod release;
mod shrink;
mod spill;
mod write;
