//! An image file of a body, with 64 MiB of memory for it.
#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the process may allocate while it reads one file.
const MOST: usize = 64 << 20;

/// Counts what is allocated, and ends the process above the bound.
struct Counting(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Counting = Counting(AtomicUsize::new(0));

// SAFETY: `System` does the work with the caller's own arguments; the count changes nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let before = self.0.fetch_add(layout.size(), Ordering::Relaxed);
        if before + layout.size() > MOST {
            std::process::abort();
        }
        // SAFETY: the caller's layout has a size that is not 0.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller has the block from `alloc`, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| zimage_http::fuzzing::image_file(data));
