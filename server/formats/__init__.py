"""Body formats: one file each, arrays to bytes and back. No requests and no stores here."""
