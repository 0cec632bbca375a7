"""What `benches/compare` is made of.

    rows ──▶ measure ──▶ results ──▶ terminal, report (with plots)
               │  │
         servers  fio

rows: what is measured, against whom, and what is to be reached. servers: the programs that are compared. fio: one run of
the client. processes: their CPU time, memory and end. measure: the rounds. results: samples, medians, ratios, verdicts.
machine: what the figures were measured on. terminal, report, plots: what people see.
"""
