"""Stub."""
async def count_tokens(serving, request): raise NotImplementedError
async def messages(serving, request): raise NotImplementedError
