"""The service: trained runs behind HTTP, overload-proof."""
