SELECT p.id, p.sku, c.path AS category, sum(i.on_hand) AS qty, min(lot.received_at) AS oldest
  FROM inventory i
  JOIN lot ON lot.id = i.lot_id
  JOIN product p ON p.id = lot.product_id
  JOIN category c ON c.id = p.category_id
  JOIN location l ON l.id = i.location_id
 WHERE i.on_hand > 0 AND NOT l.is_blocked
   AND NOT EXISTS (SELECT FROM movement m JOIN lot moved ON moved.id = m.lot_id
                    WHERE moved.product_id = p.id AND m.kind = 'pick' AND m.moved_at >= :last_day::date - 180)
 GROUP BY p.id, c.path
 ORDER BY qty DESC, p.id
 LIMIT 100
