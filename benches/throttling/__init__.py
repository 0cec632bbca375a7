"""What `benches/qos` is made of; what it shares with `benches/compare` is in `benches/comparison`.

    parts ──▶ verdicts ──▶ terminal, page (with pictures)
      │
    trace, client

trace: a run of fio, and when each of its requests was done. client: an NBD client that has a flush behind waiting writes.
parts: what is measured; each gives a dictionary. verdicts: what it is to be. page: the figures in docs/QOS.md.
"""
