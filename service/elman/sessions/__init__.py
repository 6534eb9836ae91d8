"""Sessions: state that is kept between requests, in a store or in the hands of the caller."""
