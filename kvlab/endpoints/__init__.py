"""Endpoints: which server answers, what it can prove, and how its tokens are counted."""
