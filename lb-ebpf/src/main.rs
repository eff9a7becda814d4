//! The XDP program of sluice.
#![no_std]
#![no_main]
