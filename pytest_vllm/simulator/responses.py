"""Stub."""
async def get_response(serving, request): raise NotImplementedError
async def cancel_response(serving, request): raise NotImplementedError
async def responses(serving, request): raise NotImplementedError
