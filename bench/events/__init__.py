"""Events end to end: Mayfly beside four peers that do the same work on the same machine in the same run.

What is fair, and how it is seen to:

* One worker process each, 64 events at once, acknowledged after the work, brokers that write to disk before they
  accept. Mayfly is measured with one instance and with 64; its router, worker and instances all count as Mayfly.
* The work: a JSON event of 100 bytes is decoded by whatever the system decodes with, and the handler tells the bench
  with the same few lines everywhere (`handler.py`). Coroutines where a peer runs coroutines, as that is cheaper there.
* An event is handled when its handler has started on it, in its handler's own words: nobody's ways of accounting are
  trusted. Events that are to last are done when the handler says so.
* Publishing costs the same for all: messages are made beforehand, as each peer's own client would write them, and put
  into the broker in bulk (`publisher.py`). Peers' logs of single events are off.
* Rounds alternate, and ratios are taken within a round. Who is not measured idles, which costs every burst the same.
* Two of the peers pull one event at a time unless told otherwise. They are measured both as they come, and told to
  pull 64 at once. In the recovery only the latter: one at a time is no fair load for it.
* Recovery: each worker is killed with -9, all its processes, and started again at once. Peers are killed at the same
  time, as what is measured there is waiting. What the brokers' defaults keep for longer than the bench waits counts
  as not done, which is not the same as lost.
"""
