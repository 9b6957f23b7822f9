"""Requests that the gateway must refuse itself: what is behind it never hears of them."""
