"""Work on a loaded model: options, requests, results, scores, arrays and calls from asyncio."""
