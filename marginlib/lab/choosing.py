"""Which loss, when: what the record of :mod:`studies.side_by_side` says to each wish.

Hypotheses, written when the trials of two of the four regimes had been made, and before any run
of ``side_by_side``.  Chapter 14 judges them.

1. Few wishes are granted.  With intervals that hold for all comparisons of a wish together, no
   method makes fewer mistakes than the tuned softmax loss in any of the four regimes.  Refuted,
   in a regime, by one that does.
2. What is easier to beat.  By the same intervals some method is better than the softmax loss
   in its calibration as it comes, and some method under attack.  Refuted where none is.
3. A winner does not travel.  The rank correlation of the methods' errors in two regimes, in the
   mean of the six pairs of regimes, is below one half.  It holds where the 95 % interval, from
   the methods drawn again with replacement, lies below; is refuted where it lies above.
4. Fewer images, more luck.  Of a difference between two methods that one seed shows, less is
   left in another seed with few images than in each of the other regimes.  Judged in the same
   way, regime by regime.
5. The chosen one disappoints.  The method with the lowest test error in one seed leads the
   softmax loss by more in that seed than in the other four, in every regime.  Judged by the
   interval over the five seeds.

The methods of 3 to 5 are those in the race: whose best trial came within five points of the
softmax loss's best, on the validation images.
"""
