"""Sessions: state kept between requests, in a store or by the caller."""
